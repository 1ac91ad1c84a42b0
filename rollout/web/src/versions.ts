// What may be asked of a version: where it runs, what it is called, and where its backends are found.

import { fromJson, listed, shell, type Action, type Typed } from "./actions";
import { path } from "./api";
import type { Discovered, Service } from "./shapes";

/** What may be asked of a version whose backends are found by `source`, or are said by somebody. */
export function offeredOf(service: Service, version: string, source: Discovered | undefined): Action[] {
  return [
    scale(service, version, source),
    ...(service.rollout === null ? [rename(service)] : []),
    discover(service, version, source),
    ...(source ? [undiscover(service, source)] : []),
  ];
}

function scale(service: Service, version: string, source: Discovered | undefined): Action {
  const leaving = service.drains.filter((each) => each.version === version && each.leaves).map((each) => each.backend);
  const all = service.versions.find((each) => each.version === version)?.backends ?? [];
  const present = all.filter((each) => !leaving.includes(each));
  const back = source ? ` But ${source.label} has the last word: what it does not name goes again, and what it names comes back.` : "";
  return {
    verb: "scale",
    label: "Scale",
    kind: "plain",
    about: `New backends get requests at once. Those that are left out are drained first, and then leave ${version}.${back}`,
    method: "PATCH",
    url: path("services", service.service, "versions", version),
    fields: [{ name: "backends", label: "Backends", hint: "one a line, as 10.0.0.5:8080@region/zone", lines: 6, value: present.join("\n") }],
    body: (typed) => scaling(present, typed),
  };
}

/** Only the difference is asked for: what others have added or let go meanwhile stays so. */
function scaling(present: string[], typed: Typed): unknown {
  const wanted = listed(typed.backends);
  const kept = wanted.map((each) => each.split("@")[0] ?? "");
  const add = wanted.filter((each) => !present.includes(each));
  const remove = present.filter((each) => !kept.includes(each));
  if (!add.length && !remove.length) throw new Error("Backends: these are the present ones; add some, or take some out");
  return { add, remove };
}

const rename = (service: Service): Action => ({
  verb: "adopt",
  label: "Rename",
  kind: "plain",
  about: `What runs now is called otherwise, until the first rollout of ${service.service} begins; nothing else changes.`,
  method: "POST",
  url: path("services", service.service, "adopt"),
  fields: [{ name: "version", label: "Version", hint: "as v1", required: true }],
  body: (typed) => ({ version: (typed.version ?? "").trim() }),
});

const urlOf = (service: Service, version: string): string => path("services", service.service, "versions", version, "discovery");

function discover(service: Service, version: string, source: Discovered | undefined): Action {
  // Of a URL the query is not told: who saved what is shown would lose it.
  const value = source && !("http_sd" in source.source) ? JSON.stringify(source.source, null, 2) : "";
  return {
    verb: "discovery set",
    label: "Discovery",
    kind: "plain",
    about: `${version} runs from now on wherever its source says: who comes gets requests, who goes is drained first.`,
    method: "PUT",
    url: urlOf(service, version),
    fields: [{ name: "source", label: "Source", hint: `${FORMS}, each but the last also with @region/zone; or as JSON`, lines: value ? 12 : 2, required: true, value }],
    body: (typed) => sourceOf((typed.source ?? "").trim()),
  };
}

const undiscover = (service: Service, source: Discovered): Action => ({
  verb: "discovery remove",
  label: "End discovery",
  kind: "danger",
  about: `${source.label} is not followed any more; the backends stay as they are.`,
  line: shell("discovery", "remove", service.service, source.version),
  method: "DELETE",
  url: urlOf(service, source.version),
  body: () => undefined,
});

const FORMS = "dns:NAME:PORT, dns:NAME for SRV, consul:SERVICE, http_sd:URL";

/** The short forms that the command line has, too. */
function sourceOf(text: string): unknown {
  if (text.startsWith("{")) return fromJson("Source", text);
  const [, kind, rest = ""] = /^(\w+):(\S+)$/.exec(text) ?? [];
  if (kind === "http_sd") return { http_sd: { url: rest } };
  const [, place = "", location] = /^([^@]+)(?:@(.+))?$/.exec(rest) ?? [];
  const located = location ? { location } : {};
  const [name = "", port] = place.split(":");
  if (kind === "dns" && name) return { dns: { name, ...(port ? { port } : {}) }, ...located };
  if (kind === "consul" && place) return { consul: { service: place }, ...located };
  throw new Error(`Source: '${text}' is none; write ${FORMS}`);
}
