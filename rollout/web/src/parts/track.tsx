// The way of a rollout as a line of stations, and the weight that is wanted beside the one that is measured.

import type { Rollout } from "../shapes";
import { BEFORE_STAGES, ENDED, judged, percent, SIGNS, station } from "../words";

interface Stop {
  name: string;
  note: string;
  state: "done" | "here" | "ahead";
  /** Whether the rollout was taken back from here. */
  left?: boolean;
}

export function stops(rollout: Rollout): Stop[] {
  const phase = rollout.resume ?? rollout.phase;
  const warming = BEFORE_STAGES.includes(phase);
  const ended = ENDED.includes(phase);
  const back = takenBack(rollout);
  const untouched = back && rollout.drain === null && phase !== "rolling_back";
  const found: Stop[] = [stop("warm", "", true, warming)];
  if (rollout.waves.length) found.push(...waves(rollout, phase, back));
  else found.push(...stages(rollout, phase, { back, untouched, warming }));
  if (back) {
    const words = rollout.weight_percent ? `back at ${percent(rollout.weight_percent)}` : "back to 0 %";
    found.push(stop(words, "", phase !== "rolling_back", phase === "rolling_back"));
  } else if (rollout.keep_stable_seconds) {
    found.push(stop("keep", "", phase === "draining" || phase === "removing" || ended, phase === "retaining"));
  }
  if (!untouched) {
    const here = phase === "draining" || (phase === "retaining" && !rollout.keep_stable_seconds);
    found.push(stop("drain", "", ended || phase === "removing", here));
  }
  found.push(stop("remove", "", ended, phase === "removing"), stop(back ? "rolled back" : "done", "", false, ended));
  return found;
}

const stop = (name: string, note: string, behind: boolean, here: boolean): Stop => ({
  name,
  note,
  state: here ? "here" : behind ? "done" : "ahead",
});

function stages(rollout: Rollout, phase: string, is: { back: boolean; untouched: boolean; warming: boolean }): Stop[] {
  const shown = is.back ? rollout.track.slice(0, is.untouched ? 0 : rollout.stage + 1) : rollout.track;
  return shown.map((each, number) => {
    const behind = !is.warming && (number < rollout.stage || (number === rollout.stage && phase !== "shifting"));
    const approved = number === rollout.stage && rollout.approved;
    const note = approved ? "approved" : each.approve ? "asks for approval" : "";
    const left = is.back && number === rollout.stage;
    return { ...stop(station(each), note, behind, phase === "shifting" && number === rollout.stage), left };
  });
}

function waves(rollout: Rollout, phase: string, back: boolean): Stop[] {
  const present = rollout.wave ?? -1;
  const shown = back ? rollout.waves.slice(0, present + 1) : rollout.waves;
  return shown.map((words, number) => {
    const behind = number < present || (number === present && phase !== "shifting");
    return stop(`wave ${number + 1}`, words, behind, phase === "shifting" && number === present);
  });
}

export function takenBack(rollout: Rollout): boolean {
  const leaving = rollout.phase === "draining" || rollout.phase === "removing";
  return ["rolling_back", "rolled_back"].includes(rollout.phase) || (leaving && !rollout.weight_percent);
}

const STATES = { done: "behind it", here: "it is here", ahead: "to come" };

export function Track({ rollout }: { rollout: Rollout }) {
  const tone = takenBack(rollout) ? "bad" : rollout.phase === "paused" ? "warn" : rollout.phase === "completed" ? "good" : "busy";
  const here = ENDED.includes(rollout.phase) ? SIGNS[tone] : SIGNS.busy;
  return (
    <>
      <ol class={`track ${tone}`} aria-label="Stages of the rollout">
        {stops(rollout).map((each, number) => (
          <li key={number} class={each.state} aria-current={each.state === "here" ? "step" : undefined}>
            <span class="mark" aria-hidden="true">
              {each.left ? SIGNS.bad : each.state === "done" ? SIGNS.good : each.state === "here" ? here : ""}
            </span>
            <span class="name">{each.name}</span>
            {each.note && <span class="note">{each.note}</span>}
            <span class="unseen">, {each.left ? "taken back from here" : STATES[each.state]}</span>
          </li>
        ))}
      </ol>
      <Weight rollout={rollout} />
    </>
  );
}

function Weight({ rollout }: { rollout: Rollout }) {
  const measured = judged(rollout) ? rollout.measured : null;
  const mirrors = !rollout.locations.length && rollout.track[rollout.stage]?.kind === "mirror";
  const had = measured && !mirrors ? measured.weight_percent : null;
  // In waves only the locations that move are measured: that is no share of the whole fleet's traffic.
  const where = rollout.waves.length ? " in the locations that move" : "";
  const words = mirrors ? "copies of requests only" : had === null ? "nothing measured now" : `measured ${percent(had)}${where}`;
  const told = rollout.in_progress || had !== null;
  return (
    <div class="weight">
      <div class="scale" role="img" aria-label={`${rollout.candidate} should have ${percent(rollout.weight_percent)}${told ? `, ${words}` : ""}`}>
        <span class="wanted" style={{ inlineSize: `${rollout.weight_percent}%` }} />
        {had !== null && !where && <span class="measured" style={{ insetInlineStart: `${had}%` }} />}
      </div>
      <p class="legend">
        <span>
          <i class="swatch candidate" aria-hidden="true" /> {rollout.candidate} wanted <b>{percent(rollout.weight_percent)}</b>
        </span>
        {told && (
          <span>
            <i class="swatch tick" aria-hidden="true" /> {words}
          </span>
        )}
        <span>
          <i class="swatch stable" aria-hidden="true" /> {rollout.stable} has the rest
        </span>
      </p>
    </div>
  );
}
