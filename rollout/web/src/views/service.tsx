// One service: its rollout as it stands, why, what one can do, and what it has done.

import { Fragment } from "preact";
import { useEffect, useState } from "preact/hooks";
import { deploy, dequeue, mayChange, offered } from "../actions";
import { get } from "../api";
import { link } from "../router";
import type { Happening, Rollout, Service } from "../shapes";
import { hear, useWorld } from "../store";
import { awaitedWords, duration, milliseconds, percent, phaseWords, plural, share, toneOf, type Tone } from "../words";
import { Backends } from "../parts/backends";
import { Badge, Card, Quiet, Title } from "../parts/bits";
import { Charts } from "../parts/charts";
import { Buttons } from "../parts/dialog";
import { Evidence } from "../parts/evidence";
import { Happenings } from "../parts/happenings";
import { Places } from "../parts/places";
import { History, StoryOf } from "../parts/story";
import { Track } from "../parts/track";

export function ServiceView({ name, rollout }: { name: string; rollout: string }) {
  const service = useWorld((world) => world.service);
  const missing = useWorld((world) => world.missing);
  return (
    <>
      <p class="crumbs">
        <a href={link("services")}>Services</a> <span aria-hidden="true">/</span> {name}
      </p>
      {rollout ? (
        <>
          <Title name={`${name}, rollout ${rollout}`}>{name}</Title>
          <StoryOf service={name} id={rollout} />
        </>
      ) : service && service.service === name ? (
        <Live service={service} />
      ) : (
        <>
          <Title name={name}>{name}</Title>
          {missing ? <p class="fault">{missing}</p> : <Quiet>Asking for {name} …</Quiet>}
        </>
      )}
    </>
  );
}

function Live({ service }: { service: Service }) {
  const { rollout } = service;
  return (
    <>
      <Head service={service} />
      {service.queued && <Queued service={service} />}
      {rollout && <Standing rollout={rollout} />}
      {rollout && (
        <div class="pair">
          <Card title="Evidence">
            <Evidence rollout={rollout} />
          </Card>
          <Usual service={service} />
        </div>
      )}
      {rollout && (
        <Card title="Over time">
          <Charts rollout={rollout} />
        </Card>
      )}
      {rollout && rollout.locations.length > 0 && <Places rollout={rollout} />}
      <Backends service={service} />
      <Events service={service.service} />
      <History service={service.service} current={`${rollout?.id} ${rollout?.outcome}`} />
    </>
  );
}

function Head({ service }: { service: Service }) {
  const me = useWorld((world) => world.me);
  const { rollout } = service;
  const acts = mayChange(me, service.service);
  const actions = acts ? [...(rollout ? offered(rollout) : []), deploy(service)] : [];
  const subject = rollout ? `${service.service}: ${rollout.stable} → ${rollout.candidate}` : service.service;
  return (
    <div class="head service">
      <div>
        <Title name={service.service}>{service.service}</Title>
        <p class="lead">
          {rollout?.in_progress ? (
            <>
              {rollout.stable} → <b>{rollout.candidate}</b> <span class="small">rollout {rollout.id}</span>
            </>
          ) : (
            <>
              <b>{service.stable}</b> has all traffic
            </>
          )}
        </p>
      </div>
      <Buttons actions={actions} subject={subject} />
      {!acts && me && <p class="small">You may look on. To change things takes an operator of this service.</p>}
    </div>
  );
}

function Queued({ service }: { service: Service }) {
  const me = useWorld((world) => world.me);
  const { queued } = service;
  if (!queued) return null;
  return (
    <section class="card note" aria-label="Queued">
      <p>
        <Badge tone={queued.fault ? "warn" : "calm"}>queued</Badge> {queued.version} by {queued.by}{" "}
        {queued.fault ? `could not begin: ${queued.fault}` : "begins when this rollout has ended"}
      </p>
      {mayChange(me, service.service) && <Buttons actions={[dequeue(service)]} subject={`${queued.version} of ${service.service}`} small />}
    </section>
  );
}

/** Seconds since the service was told: what only grows with time is not sent again. */
function usePassed(): number {
  return useWorld((world) => Math.max(0, Math.round((world.now - world.serviceAt) / 1000)));
}

function headTone(rollout: Rollout): Tone {
  return rollout.awaiting && rollout.in_progress ? "warn" : toneOf(rollout.phase);
}

function Standing({ rollout }: { rollout: Rollout }) {
  const stage =
    rollout.phase === "shifting"
      ? rollout.waves.length
        ? `, wave ${(rollout.wave ?? 0) + 1} of ${rollout.waves.length}`
        : `, stage ${rollout.stage + 1} of ${rollout.track.length}`
      : rollout.resume
        ? ` while ${phaseWords(rollout.resume)}`
        : "";
  const lasts = duration(rollout.phase_seconds + usePassed());
  return (
    <Card
      title="Rollout"
      aside={
        <>
          <Badge tone={headTone(rollout)}>
            {phaseWords(rollout.phase)}
            {stage}
          </Badge>{" "}
          <span class="small figure">{rollout.in_progress ? `for ${lasts}` : `${lasts} ago`}</span>
        </>
      }
    >
      <Track rollout={rollout} />
      <Reasons rollout={rollout} />
    </Card>
  );
}

const WAITING_SHOWN = 6;
const HOOKS_SHOWN = ["calling", "refused"];

function Reasons({ rollout }: { rollout: Rollout }) {
  const waiting = Object.entries(rollout.waiting_for).toSorted();
  const hooks = rollout.hooks.filter((hook) => HOOKS_SHOWN.includes(hook.state));
  const awaited = rollout.in_progress ? awaitedWords(rollout.awaiting) : "";
  return (
    <dl class="reasons">
      <dt>Why</dt>
      <dd class="because">{rollout.reason}</dd>
      {(awaited || rollout.waiting) && (
        <>
          <dt>Waits</dt>
          <dd>
            <strong>{awaited}</strong>
            {awaited && rollout.waiting ? ": " : ""}
            {rollout.waiting}
          </dd>
        </>
      )}
      {waiting.length > 0 && (
        <>
          <dt>Waits for</dt>
          {waiting.slice(0, WAITING_SHOWN).map(([who, why]) => (
            <dd key={who}>
              <b>{who}</b>: {why}
            </dd>
          ))}
          {waiting.length > WAITING_SHOWN && <dd>and {waiting.length - WAITING_SHOWN} more</dd>}
        </>
      )}
      {hooks.map((hook) => (
        <Fragment key={`${hook.at} ${hook.name}`}>
          <dt>Hook</dt>
          <dd>
            {hook.name} ({hook.at}): {hook.at === "rollback" && hook.state === "refused" ? "does not ask for it" : hook.state}
            {hook.attempts > 1 ? `, ${hook.attempts} tries` : ""}
            {hook.words ? `: ${hook.words}` : ""}
          </dd>
        </Fragment>
      ))}
      {rollout.point_of_no_return && (
        <>
          <dt>Beyond</dt>
          <dd>‘{rollout.point_of_no_return}’ has run and cannot be undone; it asks before it goes back</dd>
        </>
      )}
      {rollout.stages_note && (
        <>
          <dt>Stages</dt>
          <dd class="small">{rollout.stages_note}</dd>
        </>
      )}
    </dl>
  );
}

function Usual({ service }: { service: Service }) {
  const { history, rollout } = service;
  const envoys = rollout?.measured?.envoys ?? [];
  return (
    <Card title="What is usual">
      {history ? (
        <dl class="figures">
          <div>
            <dt>requests</dt>
            <dd>{history.requests_per_s === null ? "–" : `${Math.round(history.requests_per_s).toLocaleString("en")}/s`}</dd>
          </div>
          <div>
            <dt>errors</dt>
            <dd>{share(history.error_share)}</dd>
          </div>
          <div>
            <dt>p50</dt>
            <dd>{milliseconds(history.p50_ms)}</dd>
          </div>
          <div>
            <dt>p99</dt>
            <dd>{milliseconds(history.p99_ms)}</dd>
          </div>
        </dl>
      ) : (
        <Quiet>Nothing is known yet of {service.stable}'s traffic.</Quiet>
      )}
      {envoys.length > 0 && (
        <details>
          <summary>How {plural(envoys.length, "proxy").replace(/ys$/, "ies")} split it</summary>
          <ul class="small plain">
            {envoys.map((each) => (
              <li key={each.node}>
                {each.astray && <Badge tone="warn">astray</Badge>} {each.node}: {percent(each.weight_percent)} of {plural(each.requests, "request")},
                should be {percent(each.acked_percent)}
              </li>
            ))}
          </ul>
        </details>
      )}
    </Card>
  );
}

const EVENTS_SHOWN = 12;

function Events({ service }: { service: string }) {
  const all = useWorld((world) => world.events);
  const [whole, setWhole] = useState(false);
  useEffect(() => {
    const stop = new AbortController();
    get<{ events: Happening[] }>(`/v1/events?limit=50&service=${encodeURIComponent(service)}`, stop.signal)
      .then((told) => hear(told.events))
      .catch(() => undefined);
    return () => stop.abort();
  }, [service]);
  const mine = all.filter((each) => each.service === service);
  if (!mine.length) return null;
  return (
    <Card title="Events">
      <Happenings events={whole ? mine : mine.slice(0, EVENTS_SHOWN)} of={service} />
      {!whole && mine.length > EVENTS_SHOWN && (
        <button type="button" class="more" onClick={() => setWhole(true)}>
          Show all {mine.length}
        </button>
      )}
    </Card>
  );
}

