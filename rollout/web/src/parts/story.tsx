// The story of a rollout: each phase and stage as a chapter, with the verdict that ended it and its numbers.

import { useState } from "preact/hooks";
import { useAnswer } from "../answer";
import { path } from "../api";
import { link } from "../router";
import type { Step, Story, Summary, Verdict } from "../shapes";
import { awaitedWords, clock, duration, moment, percent, phaseWords, plural, share, station, toneOf } from "../words";
import { Awaited, Badge, Card, Columns, Quiet, Table } from "./bits";
import { Bars, VerdictLine } from "./evidence";

interface Chapter {
  steps: Step[];
  following: Step | null;
}

export function chapters(journal: Step[]): Chapter[] {
  const groups: Step[][] = [];
  let place = "";
  for (const step of journal) {
    const here = `${step.phase} ${step.stage} ${step.wave}`;
    if (here !== place) groups.push([]);
    place = here;
    groups.at(-1)?.push(step);
  }
  return groups.map((steps, number) => ({ steps, following: groups[number + 1]?.[0] ?? null }));
}

export function StoryOf({ service, id }: { service: string; id: string }) {
  const { found: story, fault } = useAnswer<Story>(path("services", service, "rollouts", id));
  if (!story) return <Awaited what="the story" found={story} fault={fault} />;
  return (
    <Card title={`The story of rollout ${story.id}`} aside={<a href={link("services", service)}>back to {service}</a>}>
      <p>
        {story.stable} → {story.candidate} <Badge tone={toneOf(story.phase)}>{phaseWords(story.phase)}</Badge>{" "}
        <span class="small">
          started {moment(story.started_at)}, {duration((Date.parse(story.changed_at) - Date.parse(story.started_at)) / 1000)} until its last change
        </span>
      </p>
      {story.stages_note && <Quiet>{story.stages_note}</Quiet>}
      {!story.journal.length && <Quiet>It ended: {story.reason}. Its steps are not kept any more, only those of the newest rollouts.</Quiet>}
      <ol class="story">
        {chapters(story.journal).map((chapter, number, all) => (
          <ChapterOf key={number} chapter={chapter} story={story} before={all[number - 1]?.steps[0]?.reason ?? ""} />
        ))}
      </ol>
    </Card>
  );
}

function nameOf(step: Step, story: Story): string {
  if (step.phase !== "shifting") return phaseWords(step.phase);
  if (step.wave >= 0) return `wave ${step.wave + 1}`;
  const stage = story.track[step.stage];
  return `stage ${step.stage + 1}${stage ? `: ${station(stage)}` : ""}`;
}

function ChapterOf({ chapter, story, before }: { chapter: Chapter; story: Story; before: string }) {
  const [first] = chapter.steps;
  if (!first) return null;
  const seconds = chapter.following ? (Date.parse(chapter.following.at) - Date.parse(first.at)) / 1000 : null;
  const verdict = decided(chapter);
  const asked = chapter.steps.filter((step) => step.command && step !== first);
  const answers = chapter.steps.flatMap((step) => step.answers);
  const waits = [...new Set(chapter.steps.filter((step) => step.waiting).map((step) => `${awaitedWords(step.awaiting)}: ${step.waiting}`))];
  return (
    <li>
      <div class="when">
        <time dateTime={first.at}>{clock(first.at)}</time>
        <span class="small">{percent(first.weight_percent)}</span>
      </div>
      <div class="what">
        <h3>
          <Badge tone={toneOf(first.phase)}>{nameOf(first, story)}</Badge>{" "}
          {seconds !== null && <span class="small">for {duration(seconds)}</span>}
        </h3>
        {first.reason !== before && <p>{first.reason}</p>}
        {first.by && !first.reason.includes(first.by) && <p class="small">asked for by {first.by}</p>}
        {asked.map((step) => (
          <p class="small" key={step.revision}>
            {clock(step.at)} {phaseWords(step.command)} by {step.by || "an operator"}
          </p>
        ))}
        {answers.map((answer, number) => (
          <p class="small" key={number}>
            hook {answer.hook} ({answer.at}): {answer.agreed ? "agrees" : answer.words || "does not agree"}
          </p>
        ))}
        {waits.map((words) => (
          <p class="small" key={words}>
            {words}
          </p>
        ))}
        <Moves chapter={chapter} />
        {verdict && <Judged verdict={verdict} story={story} shown={first.reason} />}
      </div>
    </li>
  );
}

/** The verdict that ended a stage, or the last one in it. */
function decided(chapter: Chapter): Verdict | null {
  const last = chapter.steps.at(-1);
  if (!last || (last.phase !== "shifting" && last.phase !== "paused")) return null;
  const after = chapter.following;
  const ending = after && (["rolling_back", "retaining"].includes(after.phase) ? after.verdict : after.passed);
  return ending ?? last.verdict;
}

function Judged({ verdict, story, shown }: { verdict: Verdict; story: Story; shown: string }) {
  const { numbers } = verdict;
  const roles = (["candidate", "stable"] as const).filter((role) => numbers[`${role}_requests`]);
  return (
    <>
      {verdict.reason !== shown && <VerdictLine verdict={verdict} />}
      {"ln_limit" in numbers && (
        <details>
          <summary>Its evidence</summary>
          <Bars numbers={numbers} candidate={story.candidate} />
          <ul class="small">
            {roles.map((role) => (
              <li key={role}>
                {story[role]}: {plural(numbers[`${role}_requests`] ?? 0, "request")}, {plural(numbers[`${role}_errors`] ?? 0, "error")} (
                {share(numbers[`${role}_error_share`])})
              </li>
            ))}
            {verdict.host && <li>blamed: {verdict.host}</li>}
            {verdict.notes.map((note) => (
              <li key={note}>{note}</li>
            ))}
          </ul>
        </details>
      )}
    </>
  );
}

const MOVES_SHOWN = 40;

/** What became of locations in a chapter of a rollout in waves. */
function Moves({ chapter }: { chapter: Chapter }) {
  const moves = chapter.steps.flatMap((step) => (step.locations ?? []).map((place) => ({ at: step.at, place })));
  if (!moves.length) return null;
  return (
    <details>
      <summary>{plural(moves.length, "step")} of locations</summary>
      <ul class="small">
        {moves.slice(0, MOVES_SHOWN).map(({ at, place }, number) => (
          <li key={number}>
            {clock(at)} {place.location}: {phaseWords(place.phase)} {percent(place.weight_percent)} {place.waiting || place.reason}
          </li>
        ))}
        {moves.length > MOVES_SHOWN && <li>and {moves.length - MOVES_SHOWN} more</li>}
      </ul>
    </details>
  );
}

const ROLLOUTS_SHOWN = 6;

export function History({ service, current }: { service: string; current: string }) {
  const [whole, setWhole] = useState(false);
  const found = useAnswer<{ rollouts: Summary[] }>(path("services", service, "rollouts"), current).found?.rollouts;
  if (!found?.length) return null;
  return (
    <Card title="History">
      <Table caption={`Rollouts of ${service}, the newest first`} class="stacks">
        <Columns names={["rollout", "move", "outcome", "began", "why"]} />
        <tbody>
          {(whole ? found : found.slice(0, ROLLOUTS_SHOWN)).map((each) => (
            <tr key={each.id}>
              <th scope="row">
                <a href={link("services", service, "rollouts", each.id)} aria-label={`Story of rollout ${each.id}`}>
                  #{each.id}
                </a>
              </th>
              <td data-label="move">
                {each.stable} → {each.candidate} {each.origin !== "deploy" && <span class="small">({each.origin})</span>}
              </td>
              <td data-label="outcome">
                <Badge tone={toneOf(each.outcome)}>{phaseWords(each.outcome)}</Badge>
              </td>
              <td data-label="began">{moment(each.started_at)}</td>
              <td data-label="why" class="wide">
                {each.reason}
              </td>
            </tr>
          ))}
        </tbody>
      </Table>
      {!whole && found.length > ROLLOUTS_SHOWN && (
        <button type="button" class="more" onClick={() => setWhole(true)}>
          Show all {found.length}
        </button>
      )}
    </Card>
  );
}
