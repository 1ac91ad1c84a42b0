// A verdict with its evidence: how near it is to a rollback, and how near to the next stage.

import type { Rollout, Verdict } from "../shapes";
import { count, judged, milliseconds, odds, plural, share, toneOf, verdictWords } from "../words";
import { Badge, Meter, Table } from "./bits";

const METRICS: [string, string][] = [
  ["errors", "in errors"],
  ["p95", "in latency, p95"],
  ["p99", "in latency, p99"],
];

/** How much of the evidence to pass there is, as a part of 1, by what it is about. */
export function progress(numbers: Record<string, number>): [string, number][] {
  const start = numbers.ln_pass_start ?? 0;
  const needed = numbers.ln_pass_limit ?? 0;
  return METRICS.filter(([metric]) => `ln_pass_${metric}` in numbers).map(([metric, words]) => {
    const won = ((numbers[`ln_pass_${metric}`] ?? 0) - start) / (needed - start);
    return [words, Math.max(0, Math.min(1, won))];
  });
}

/** Rounded down: 100 % is enough, and less is not. */
const whole = (part: number): string => `${Math.floor(100 * part)} %`;

export function VerdictLine({ verdict }: { verdict: Verdict }) {
  return (
    <p class="verdict">
      <Badge tone={toneOf(verdict.verdict)}>{verdictWords(verdict)}</Badge> <span class="reason">{verdict.reason}</span>
    </p>
  );
}

export function Evidence({ rollout }: { rollout: Rollout }) {
  const { verdict } = rollout;
  if (!verdict) return <p class="quiet">Nothing is judged yet: no traffic has been shifted.</p>;
  return (
    <>
      <VerdictLine verdict={verdict} />
      <Bars numbers={verdict.numbers} candidate={rollout.candidate} />
      {verdict.host && (
        <p>
          One backend explains the errors: <code>{verdict.host}</code>
        </p>
      )}
      {verdict.notes.length > 0 && (
        <ul class="notes">
          {verdict.notes.slice(0, 8).map((note) => (
            <li key={note}>{note}</li>
          ))}
        </ul>
      )}
      <Figures rollout={rollout} numbers={verdict.numbers} />
    </>
  );
}

export function Bars({ numbers, candidate }: { numbers: Record<string, number>; candidate: string }) {
  const limit = numbers.ln_limit;
  if (limit === undefined) return null;
  const found = numbers.ln_e ?? 0;
  return (
    <dl class="bounds">
      <div class="against">
        <dt>Against {candidate}</dt>
        <dd>
          <Meter part={Math.max(0, found / limit)} tone="bad" label={`Evidence against ${candidate}`} />
          <span class="figure">
            {odds(found)} of {odds(limit)}
          </span>
          <span class="small">needed to take it back</span>
        </dd>
      </div>
      {Boolean(numbers.stable_requests) &&
        progress(numbers).map(([words, part]) => (
          <div class="for" key={words}>
            <dt>For it, {words}</dt>
            <dd>
              <Meter part={part} tone="good" label={`Evidence for ${candidate}, ${words}`} />
              <span class="figure">{whole(part)}</span>
              <span class="small">of what passes the stage</span>
            </dd>
          </div>
        ))}
    </dl>
  );
}

function Figures({ rollout, numbers }: { rollout: Rollout; numbers: Record<string, number> }) {
  if (numbers.candidate_requests === undefined && numbers.stable_requests === undefined) return null;
  const look = judged(rollout) ? rollout.measured : null;
  const roles = ["candidate", "stable"] as const;
  const excess = numbers.excess_errors ?? 0;
  return (
    <>
      <Table caption="What both versions did in this stage" class="stacks">
        <thead>
          <tr>
            <th scope="col">in this stage</th>
            <th scope="col" class="right">
              requests
            </th>
            <th scope="col" class="right">
              errors
            </th>
            <th scope="col" class="right">
              error share
            </th>
            <th scope="col" class="right">
              p50 now
            </th>
            <th scope="col" class="right">
              p99 now
            </th>
          </tr>
        </thead>
        <tbody>
          {roles.map((role) => (
            <tr key={role}>
              <th scope="row">
                <i class={`swatch ${role}`} aria-hidden="true" /> {rollout[role]} <span class="small">{role}</span>
              </th>
              <td class="right" data-label="requests">{count(numbers[`${role}_requests`] ?? 0)}</td>
              <td class="right" data-label="errors">{count(numbers[`${role}_errors`] ?? 0)}</td>
              <td class="right" data-label="error share">{numbers[`${role}_requests`] ? share(numbers[`${role}_error_share`]) : "–"}</td>
              <td class="right" data-label="p50 now">{look?.[role].requests ? milliseconds(look[role].p50_ms) : "–"}</td>
              <td class="right" data-label="p99 now">{look?.[role].requests ? milliseconds(look[role].p99_ms) : "–"}</td>
            </tr>
          ))}
        </tbody>
      </Table>
      {excess >= 1 && (
        <p class="small">
          Cost so far: {plural(excess, "bad answer")} more than {rollout.stable} would have given, in the whole rollout.
        </p>
      )}
    </>
  );
}
