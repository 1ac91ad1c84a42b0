// All services at a glance, those that need somebody first.

import { useMemo, useState } from "preact/hooks";
import { link } from "../router";
import { urgency } from "../rows";
import type { Row } from "../shapes";
import { useWorld } from "../store";
import { awaitedWords, percent, phaseWords, SHORT_VERDICTS, toneOf, type Tone } from "../words";
import { Ago, Badge, Chips, Columns, Filter, Quiet, Table, Title } from "../parts/bits";

type Kind = "all" | "person" | "wrong" | "moving" | "calm";
const KINDS: Kind[] = ["person", "wrong", "wrong", "moving", "wrong", "calm"];

const kindOf = (row: Row): Kind => KINDS[urgency(row)] ?? "calm";

export function Services() {
  const rows = useWorld((world) => world.rows);
  const missing = useWorld((world) => world.missing);
  const [words, setWords] = useState("");
  const [kind, setKind] = useState<Kind>("all");
  const found = useMemo(
    () => (rows ?? []).filter((row) => (kind === "all" || kindOf(row) === kind) && matches(row, words)),
    [rows, words, kind],
  );
  const number = (wanted: Kind) => (rows ?? []).filter((row) => kindOf(row) === wanted).length;
  return (
    <>
      <div class="head">
        <Title name="Services">Services</Title>
        <Filter label="Filter services" value={words} change={setWords} />
      </div>
      {rows === null ? (
        <Quiet>{missing || "Asking for the services …"}</Quiet>
      ) : (
        <>
          <Chips
            label="Which services"
            chosen={kind}
            choose={setKind}
            offers={[
              ["all", "all", rows.length],
              ["person", "need you", number("person")],
              ["wrong", "went wrong", number("wrong")],
              ["moving", "moving", number("moving")],
              ["calm", "as they should", number("calm")],
            ]}
          />
          <Table caption="Services, those that need somebody first" class="services stacks">
            <Columns names={["service", "stands at", "traffic", "verdict", "why", "changed"]} />
            <tbody>
              {found.map((row) => (
                <Line key={row.service} row={row} />
              ))}
            </tbody>
          </Table>
          {!found.length && <Quiet>{rows.length ? "No service is like that." : "There is no service yet: a service is an EDS cluster in envoy-configs."}</Quiet>}
        </>
      )}
    </>
  );
}

function matches(row: Row, words: string): boolean {
  const text = [row.service, row.stable, row.candidate, row.phase, row.reason].join(" ").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function Line({ row }: { row: Row }) {
  const verdict = row.in_progress ? (row.verdict ?? "") : "";
  return (
    <tr>
      <th scope="row">
        <a href={link("services", row.service)}>{row.service}</a>
        {row.in_progress && <span class="small versions">{`${row.stable} → ${row.candidate}`}</span>}
      </th>
      <td data-label="stands at">
        <Standing row={row} />
      </td>
      <td data-label="traffic">
        <Traffic row={row} />
      </td>
      <td data-label="verdict">{verdict ? <Badge tone={toneOf(verdict)}>{SHORT_VERDICTS[verdict] ?? verdict}</Badge> : "–"}</td>
      <td data-label="why" class="wide why">
        {reason(row)}
      </td>
      <td data-label="changed" class="small">
        <Ago at={row.changed_at} />
      </td>
    </tr>
  );
}

function Standing({ row }: { row: Row }) {
  if (!row.phase) return <Badge tone="calm">no rollout yet</Badge>;
  const stages = row.stages.length;
  const stage = row.phase === "shifting" && stages ? `, stage ${(row.stage ?? 0) + 1} of ${stages}` : "";
  const tone: Tone = row.awaiting && row.in_progress ? "warn" : toneOf(row.phase);
  return (
    <Badge tone={tone}>
      {phaseWords(row.phase)}
      {stage}
    </Badge>
  );
}

function Traffic({ row }: { row: Row }) {
  if (!row.in_progress || row.weight_percent === null) {
    return (
      <span class="small">
        {row.stable} {percent(100)}
      </span>
    );
  }
  return (
    <span class="traffic">
      <span class="split" aria-hidden="true">
        <span style={{ inlineSize: `${row.weight_percent}%` }} />
      </span>
      <span class="figure">{percent(row.weight_percent)}</span>
    </span>
  );
}

function reason(row: Row): string {
  const parts: string[] = [];
  if (row.in_progress && row.awaiting) parts.push([awaitedWords(row.awaiting), row.waiting].filter(Boolean).join(": "));
  else if (row.in_progress || row.outcome === "rolled_back") parts.push(row.reason);
  if (row.unhealthy) parts.push(`${row.unhealthy} unhealthy`);
  if (row.draining) parts.push(`${row.draining} draining`);
  return parts.join("; ");
}
