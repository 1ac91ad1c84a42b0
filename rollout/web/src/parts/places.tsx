// A rollout by waves: each location as it stands, the worst first.

import { useState } from "preact/hooks";
import { mayChange, offeredAt } from "../actions";
import type { Place, Rollout } from "../shapes";
import { useWorld } from "../store";
import { percent, phaseWords, SHORT_VERDICTS, toneOf, type Tone } from "../words";
import { Badge, Card, Chips, Filter, Table } from "./bits";
import { Buttons } from "./dialog";

type Kind = "all" | "wrong" | "moving" | "done" | "later";

const WRONG = ["rolling_back", "rolled_back", "paused"];
const FIRST_SHOWN = 20;

export function kindOf(place: Place): Kind {
  if (WRONG.includes(place.phase) || place.awaiting === "approval") return "wrong";
  if (place.phase === "retaining") return "done";
  return place.phase === "later" ? "later" : "moving";
}

function stationOf(place: Place): string {
  if (place.phase === "shifting") return `stage ${place.stage + 1}${place.stages.length ? ` of ${place.stages.length}` : ""}`;
  return place.phase === "retaining" ? "done" : phaseWords(place.phase);
}

function why(place: Place): string {
  if (WRONG.includes(place.phase)) return place.reason;
  const [waiting] = Object.entries(place.waiting_for);
  if (waiting) return `${waiting[0]} ${waiting[1]}`;
  if (place.waiting) return place.waiting;
  return place.phase === "shifting" ? (place.verdict?.reason ?? "") : "";
}

const tone = (place: Place): Tone => (place.phase === "retaining" ? "good" : toneOf(place.phase));

const RANK: Record<Kind, number> = { all: 0, wrong: 0, moving: 1, done: 2, later: 3 };

export function Places({ rollout }: { rollout: Rollout }) {
  const [kind, setKind] = useState<Kind>("all");
  const [words, setWords] = useState("");
  const [whole, setWhole] = useState(false);
  const me = useWorld((world) => world.me);
  const number = (wanted: Kind) => rollout.locations.filter((place) => kindOf(place) === wanted).length;
  const found = rollout.locations
    .filter((place) => (kind === "all" || kindOf(place) === kind) && matches(place, words))
    .toSorted((one, other) => RANK[kindOf(one)] - RANK[kindOf(other)]);
  const shown = whole ? found : found.slice(0, FIRST_SHOWN);
  const acts = mayChange(me, rollout.service) && rollout.in_progress;
  return (
    <Card title="Locations" aside={<Filter label="Filter locations" value={words} change={setWords} />}>
      <Chips
        label="Which locations"
        chosen={kind}
        choose={setKind}
        offers={[
          ["all", "all", rollout.locations.length],
          ["wrong", "need a look", number("wrong")],
          ["moving", "moving", number("moving")],
          ["done", "done", number("done")],
          ["later", "later", number("later")],
        ]}
      />
      <Table caption="Locations of the rollout" class="places stacks">
        <thead>
          <tr>
            <th scope="col">location</th>
            <th scope="col">wave</th>
            <th scope="col">stands at</th>
            <th scope="col" class="right">
              weight
            </th>
            <th scope="col">verdict</th>
            <th scope="col">why</th>
            {acts && <th scope="col">you can</th>}
          </tr>
        </thead>
        <tbody>
          {shown.map((place) => (
            <tr key={place.location}>
              <th scope="row">
                {place.location} <span class="small">{place.envoys === 1 ? "1 proxy" : `${place.envoys} proxies`}</span>
              </th>
              <td data-label="wave">{place.wave === null ? "–" : place.wave + 1}</td>
              <td data-label="stands at">
                <Badge tone={tone(place)}>{stationOf(place)}</Badge>
              </td>
              <td data-label="weight" class="right">
                {percent(place.weight_percent)}
              </td>
              <td data-label="verdict">{place.verdict ? (SHORT_VERDICTS[place.verdict.verdict] ?? place.verdict.verdict) : "–"}</td>
              <td data-label="why" class="wide">
                {why(place)}
              </td>
              {acts && (
                <td>
                  <Buttons actions={offeredAt(rollout, place)} subject={`${rollout.service} in ${place.location}`} small />
                </td>
              )}
            </tr>
          ))}
        </tbody>
      </Table>
      {found.length > shown.length && (
        <button type="button" class="more" onClick={() => setWhole(true)}>
          Show all {found.length}
        </button>
      )}
      {!found.length && <p class="quiet">No location is like that.</p>}
    </Card>
  );
}

function matches(place: Place, words: string): boolean {
  const text = `${place.location} ${place.phase} ${why(place)}`.toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}
