// The versions of a service and where they run: who is healthy, who is let go, and what still runs where.

import { useEffect, useState } from "preact/hooks";
import { drain, mark, mayChange, undrain, unmark, type Action } from "../actions";
import { useAnswer } from "../answer";
import type { BackendDrain, Discovered, Drain, Rollout, Service, Unhealthy } from "../shapes";
import { useWorld } from "../store";
import { offeredOf } from "../versions";
import { percent, plural, type Tone } from "../words";
import { Badge, Card, Columns, Meter, Table } from "./bits";
import { Buttons } from "./dialog";

const IDLE_LOOKS = 3;
const SOURCES_MS = 2_000;

interface Standing {
  tone: Tone;
  words: string;
  detail: string;
  part: number | null;
}

/** What is known of one backend. */
function standing(service: Service, version: string, backend: string): Standing {
  const leaving = service.drains.find((each) => each.backend === backend && each.version === version);
  if (leaving) return drainStanding(leaving, leaving.removed);
  const whole = drainOf(service.rollout, version);
  if (whole) return drainStanding(whole, whole.safe_to_stop ?? false);
  const ill = service.unhealthy.find((each) => each.backend === backend);
  if (ill) return illStanding(ill);
  return { tone: "good", words: "in use", detail: "", part: null };
}

const drainOf = (rollout: Rollout | null, version: string): Drain | null =>
  rollout?.drain && rollout.drain.version === version && rollout.in_progress ? rollout.drain : null;

function illStanding(ill: Unhealthy): Standing {
  const words = ill.used ? "unhealthy, used all the same" : "unhealthy";
  return { tone: ill.used ? "warn" : "bad", words, detail: ill.why, part: null };
}

function drainStanding(found: Drain, safe: boolean): Standing {
  const used = Object.entries(found.still_used ?? {});
  if (used.length) {
    const detail = used.map(([address, others]) => `${address} serves ${others.join(" and ")}`).join(", ");
    return { tone: "warn", words: "do not stop what is used", detail, part: null };
  }
  const cut = Object.entries(found.cut)
    .map(([node, running]) => `${node}: ${running < 0 ? "unknown" : running}`)
    .join(", ");
  const over = found.timed_out ? `the drain timeout is over, still running: ${cut || "none seen"}` : "";
  if (safe) return { tone: cut ? "warn" : "good", words: cut ? "stopping it cuts what still runs" : "safe to stop", detail: over, part: 1 };
  if (found.running === null) return { tone: "busy", words: "draining", detail: "waiting until every proxy knows of it", part: 0 };
  const looks = Math.min(found.idle_looks, IDLE_LOOKS);
  const where = Object.entries(found.running_on)
    .slice(0, 4)
    .map(([node, running]) => `${node}: ${running ?? "unknown"}`)
    .join(", ");
  const detail = [over, `${plural(found.running, "request")} running${where ? ` (${where})` : ""}, idle ${looks} of ${IDLE_LOOKS} looks`];
  return { tone: "busy", words: "draining, do not stop yet", detail: detail.filter(Boolean).join("; "), part: looks / IDLE_LOOKS };
}

function buttons(service: Service, version: string, backend: string): Action[] {
  const leaving = service.drains.some((each) => each.backend === backend && each.version === version);
  const marked = service.unhealthy.some((each) => each.backend === backend && each.marked_by !== null);
  const name = service.service;
  return [leaving ? undrain(name, backend) : drain(name, backend), marked ? unmark(name, backend) : mark(name, backend)];
}

export function Backends({ service }: { service: Service }) {
  const me = useWorld((world) => world.me);
  const acts = mayChange(me, service.service);
  const sources = useSources(service.service);
  const gone = service.drains.filter((each) => !service.versions.some((version) => version.version === each.version && version.backends.includes(each.backend)));
  return (
    <Card title="Versions and backends">
      {service.versions.map((version) => {
        const whole = drainOf(service.rollout, version.version);
        const source = sources.find((each) => each.version === version.version);
        return (
          <section class="version" key={version.version} aria-label={`version ${version.version}`}>
            <header>
              <h3>
                {version.version}{" "}
                <span class="small">
                  {role(service, version.version)} {percent(version.weight_percent)} of the traffic, {plural(version.backends.length, "backend")}
                </span>
              </h3>
              {acts && <Buttons actions={offeredOf(service, version.version, source)} subject={`${version.version} of ${service.service}`} small />}
            </header>
            {source && <Source found={source} />}
            {whole && <DrainLine found={drainStanding(whole, whole.safe_to_stop ?? false)} name={version.version} />}
            <Table caption={`Backends of ${version.version}`} class="backends stacks">
              <Columns names={["backend", "stands", "detail", ...(acts ? ["you can"] : [])]} />
              <tbody>
                {version.backends.map((backend) => (
                  <Line
                    key={backend}
                    backend={backend}
                    found={whole ? { ...standing(service, version.version, backend), detail: "" } : standing(service, version.version, backend)}
                    actions={acts ? buttons(service, version.version, backend) : null}
                    service={service.service}
                  />
                ))}
              </tbody>
            </Table>
          </section>
        );
      })}
      <Loser service={service} />
      {gone.length > 0 && <Gone drains={gone} service={service.service} acts={acts} />}
    </Card>
  );
}

/** Where backends of a service are found: asked for again when something has happened to it, and while there are any. */
function useSources(service: string): Discovered[] {
  const [some, setSome] = useState(false);
  const turn = useWorld((world) => (some ? Math.floor(world.now / SOURCES_MS) : 0));
  const last = useWorld((world) => world.events.find((each) => each.service === service)?.id ?? 0);
  const { found } = useAnswer<{ discoveries: Discovered[] }>(`/v1/discoveries?service=${encodeURIComponent(service)}`, `${turn} ${last}`);
  const sources = found?.discoveries ?? [];
  useEffect(() => setSome(sources.length > 0), [sources.length]);
  return sources;
}

const FOLLOWED: Record<Discovered["status"], [Tone, string]> = {
  fresh: ["good", "followed"],
  stale: ["warn", "not followed now"],
  unasked: ["busy", "not asked yet"],
};

function Source({ found }: { found: Discovered }) {
  const [tone, words] = FOLLOWED[found.status];
  return (
    <p class="source">
      Found by <code>{found.label}</code> <Badge tone={tone}>{words}</Badge> {found.fault ?? found.warning}
    </p>
  );
}

/** Whether the version that lost may be stopped: it is said when the rollout has ended, and is in no list any more. */
function Loser({ service }: { service: Service }) {
  const drain = service.rollout?.drain;
  if (!drain || service.versions.some((each) => each.version === drain.version)) return null;
  return (
    <section class="version" aria-label={`version ${drain.version}`}>
      <h3>
        {drain.version} <span class="small">was let go</span>
      </h3>
      <DrainLine found={drainStanding(drain, drain.safe_to_stop ?? false)} name={drain.version} />
    </section>
  );
}

function role(service: Service, version: string): string {
  if (version === service.stable) return "stable,";
  return service.rollout?.candidate === version && service.in_progress ? "candidate," : "";
}

function DrainLine({ found, name }: { found: Standing; name: string }) {
  return (
    <p class="drain">
      <Badge tone={found.tone}>{found.words}</Badge> {found.detail}
      {found.part !== null && found.part < 1 && <Meter part={found.part} tone="busy" label={`Drain of ${name}`} />}
    </p>
  );
}

interface LineProps {
  backend: string;
  found: Standing;
  actions: Action[] | null;
  service: string;
}

function Line({ backend, found, actions, service }: LineProps) {
  return (
    <tr>
      <th scope="row">
        <code>{backend}</code>
      </th>
      <td data-label="stands">
        <Badge tone={found.tone}>{found.words}</Badge>
      </td>
      <td data-label="detail" class="wide">
        {found.detail}
        {found.part !== null && found.part < 1 && found.detail && <Meter part={found.part} tone="busy" label={`Drain of ${backend}`} />}
      </td>
      {actions && (
        <td>
          <Buttons actions={actions} subject={`${backend} of ${service}`} small />
        </td>
      )}
    </tr>
  );
}

function Gone({ drains, service, acts }: { drains: BackendDrain[]; service: string; acts: boolean }) {
  return (
    <section class="version" aria-label="Backends let go">
      <h3>
        Let go <span class="small">not in the configuration any more</span>
      </h3>
      <Table caption="Backends that were let go" class="backends stacks">
        <tbody>
          {drains.map((each) => (
            <Line
              key={each.version + each.backend}
              backend={each.backend}
              found={drainStanding(each, each.removed)}
              actions={acts ? [undrain(service, each.backend)] : null}
              service={service}
            />
          ))}
        </tbody>
      </Table>
    </section>
  );
}
