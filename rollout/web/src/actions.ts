// What somebody may do now, each with what it will do: the buttons and their dialogs are made of these.

import { get, getGuarded, path } from "./api";
import type { Me, NamedStrategy, Place, Rollout, Service, Token } from "./shapes";
import { ahead, BEFORE_STAGES } from "./words";

export interface Field {
  name: string;
  label: string;
  hint?: string;
  lines?: number;
  required?: boolean;
  value?: string;
  options?: [string, string][];
  /** It is shown where this field has this value only. */
  when?: [string, string];
  /** Options that the server knows, asked for when the dialog opens; they stand behind the first one. */
  known?: () => Promise<[string, string][]>;
}

export interface Action {
  verb: string;
  label: string;
  kind: "main" | "danger" | "plain";
  /** What it is about, where that is not what the buttons beside it are about. */
  subject?: string;
  /** What it will do, in a sentence. */
  about: string;
  /** The same on the command line, where it is one line that needs nothing more. */
  line?: string;
  method: string;
  url: string | ((typed: Typed) => string);
  fields?: Field[];
  /** The body, from what was typed; it throws an Error with words for what is wrong. */
  body: (typed: Typed) => unknown;
  /** The headers by which it is refused where things have changed meanwhile. */
  guard?: Record<string, string>;
  /** The same for what is there now: it is asked for when its button is pressed. */
  fresh?: () => Promise<Action>;
  /** What of the answer is told only once. */
  secret?: string;
}

export type Typed = Record<string, string>;

const ORDER = ["viewer", "operator", "admin"];

function covers(me: Me | null, need: string): boolean {
  return me !== null && ORDER.indexOf(me.role) >= ORDER.indexOf(need);
}

/** Whether somebody may change a service; patterns are as `shop-*`. */
export function mayChange(me: Me | null, service: string): boolean {
  if (!covers(me, "operator") || !me) return false;
  return !me.services?.length || me.services.some((pattern) => matches(pattern, service));
}

export const isAdmin = (me: Me | null): boolean => covers(me, "admin") && !me?.services?.length;
/** Whether somebody may change what is there for all services. */
export const mayChangeAll = (me: Me | null): boolean => covers(me, "operator") && !me?.services?.length;

function matches(pattern: string, name: string): boolean {
  const words = pattern.replace(/[.+^${}()|\\]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".");
  try {
    return new RegExp(`^(?:${words})$`, "s").test(name);
  } catch {
    return pattern === name;
  }
}

const nothing = () => ({});

function command(rollout: Rollout, verb: string, label: string, kind: Action["kind"], about: string, place?: Place): Action {
  const where = place ? { location: place.location } : guarded(rollout, verb);
  const line = lineOf(rollout.service, verb, place);
  return { verb, label, kind, about, line, method: "POST", url: path("services", rollout.service, "commands", verb), body: () => where };
}

function lineOf(service: string, verb: string, place?: Place): string {
  const words = verb === "promote_full" ? ["promote", service, "--full"] : [verb.replaceAll("_", "-"), service];
  return shell(...words, ...(place ? ["--location", place.location] : []));
}

/** A line for a shell: what a shell would read otherwise is quoted. */
export const shell = (...words: string[]): string =>
  ["rollout", ...words].map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`)).join(" ");

/** What was typed a line each, or with commas between. */
export const listed = (text = ""): string[] => text.split(/[\s,]+/).filter(Boolean);

export function fromJson(label: string, text = ""): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new Error(`${label}: ${error instanceof Error ? error.message : "it cannot be read"}`);
  }
}

const OF_A_STAGE = ["approve", "promote", "skip_stage"];

/** What is meant for this stage must not be done in the next one, where it has just gone. */
function guarded(rollout: Rollout, verb: string): { stage?: number } {
  const has = OF_A_STAGE.includes(verb) && !rollout.waves.length && (rollout.phase === "shifting" || rollout.phase === "paused");
  return has ? { stage: rollout.stage } : {};
}

/** What may be asked of a rollout as it stands. */
export function offered(rollout: Rollout): Action[] {
  const { stable, candidate, service } = rollout;
  const make = (verb: string, label: string, kind: Action["kind"], about: string) => command(rollout, verb, label, kind, about);
  switch (rollout.phase) {
    case "pending":
    case "warming":
      return [
        make("pause", "Pause", "plain", `${candidate} gets no traffic until the rollout is resumed.`),
        make("abort", "Abort", "danger", `The rollout ends; all traffic stays with ${stable}.`),
      ];
    case "shifting":
      return shifting(rollout, make);
    case "paused":
      return paused(rollout, make);
    case "retaining":
      return [make("abort", "Abort", "danger", `All traffic goes back to ${stable}, which is still warm.`)];
    case "completed":
      return [
        {
          ...simple(service, "undo", "Undo", "plain", `Traffic goes back to ${stable}, on the backends where it ran last.`, () =>
            rollout.origin === "undo" ? { to: stable } : {},
          ),
          line: rollout.origin === "undo" ? shell("undo", service, "--to", stable) : shell("undo", service),
        },
      ];
    case "rolled_back":
      return [simple(service, "retry", "Retry", "plain", `The rollout to ${candidate} begins again: same backends, same strategy.`, nothing)];
    default:
      return [];
  }
}

type Make = (verb: string, label: string, kind: Action["kind"], about: string) => Action;

function back(rollout: Rollout): string {
  const point = rollout.point_of_no_return;
  return `All traffic goes back to ${rollout.stable} at once${point ? `, though '${point}' cannot be undone` : ""}.`;
}

function shifting(rollout: Rollout, make: Make): Action[] {
  const stage = rollout.track[rollout.stage];
  if (rollout.awaiting === "approval") {
    return [
      make("approve", "Approve", "main", `You agree that the rollout goes ${ahead(rollout)}.`),
      make("reject", "Reject", "danger", back(rollout)),
    ];
  }
  const spite = { thaw: "in spite of the freeze", hook: "without waiting for the hook" }[rollout.awaiting ?? ""];
  const how = spite ?? "without waiting for the evidence";
  const approve = stage?.approve && !rollout.approved;
  return [
    ...(approve ? [make("approve", "Approve", "main", `You agree in advance: once the stage has passed it goes ${ahead(rollout)}.`)] : []),
    make("promote", "Promote", "plain", `It goes ${ahead(rollout)}, ${how}.`),
    make("skip_stage", "Skip stage", "plain", `This stage is left out: it goes ${ahead(rollout)}, and the story says so.`),
    make("promote_full", "To 100 %", "plain", `${rollout.candidate} gets all traffic now, ${how}.`),
    make("pause", "Pause", "plain", "The weight stays as it is. A candidate that proves worse is still taken back."),
    make("abort", "Abort", "danger", back(rollout)),
  ];
}

function paused(rollout: Rollout, make: Make): Action[] {
  const begun = !BEFORE_STAGES.includes(rollout.resume ?? "");
  const phases = rollout.locations.map((each) => each.phase);
  const again = begun && phases.includes("rolled_back") && !phases.includes("paused");
  const onward = again ? "It is tried again where it went back." : begun ? "This stage is judged on." : "It goes on.";
  const spite = again ? "It goes on all the same, where it went back too." : `It goes ${ahead(rollout)}, without the evidence.`;
  return [
    make("resume", "Resume", "main", onward),
    ...(begun ? [make("promote", "Promote", "plain", spite)] : []),
    make("abort", "Abort", "danger", back(rollout)),
  ];
}

function simple(
  service: string,
  verb: string,
  label: string,
  kind: Action["kind"],
  about: string,
  body: (typed: Typed) => unknown,
): Action {
  return { verb, label, kind, about, line: shell(verb, service), method: "POST", url: path("services", service, verb), body };
}

/** What may be asked of one location of a rollout by waves. */
export function offeredAt(rollout: Rollout, place: Place): Action[] {
  const make = (verb: string, label: string, kind: Action["kind"], about: string) =>
    command(rollout, verb, label, kind, `In ${place.location} only: ${about}`, place);
  switch (place.phase) {
    case "shifting":
      return [
        ...(place.awaiting === "approval" ? [make("approve", "Approve", "main", "you agree that it goes on.")] : []),
        make("promote", "Promote", "plain", "it goes to the next stage without the evidence."),
        make("pause", "Pause", "plain", "the weight stays as it is."),
        make("abort", "Abort", "danger", `traffic goes back to ${rollout.stable}.`),
      ];
    case "paused":
      return [make("resume", "Resume", "main", "it is judged on."), make("abort", "Abort", "danger", `traffic goes back to ${rollout.stable}.`)];
    case "rolled_back":
      return [make("resume", "Resume", "plain", "it is tried again.")];
    default:
      return [];
  }
}

export function dequeue(service: Service): Action {
  const queued = service.queued?.version ?? "";
  return {
    verb: "dequeue",
    label: "Take out",
    kind: "danger",
    about: `${queued} does not begin when the present rollout has ended.`,
    line: shell("dequeue", service.service),
    method: "DELETE",
    url: path("services", service.service, "queue"),
    body: () => undefined,
  };
}

export function drain(service: string, backend: string): Action {
  return {
    verb: "drain",
    label: "Drain",
    kind: "danger",
    about: `${backend} gets nothing new. When no proxy has anything running on it any more, it is reported safe to stop.`,
    line: shell("drain", service, backend),
    method: "POST",
    url: path("services", service, "drains"),
    body: () => ({ backend }),
  };
}

export function undrain(service: string, backend: string): Action {
  return {
    verb: "undrain",
    label: "Take back",
    kind: "plain",
    about: `${backend} gets requests again.`,
    line: shell("undrain", service, backend),
    method: "POST",
    url: path("services", service, "undrains"),
    body: () => ({ backend }),
  };
}

export function mark(service: string, backend: string): Action {
  return {
    verb: "mark",
    label: "Mark unhealthy",
    kind: "danger",
    about: `No proxy sends ${backend} anything new until it is marked healthy again.`,
    method: "POST",
    url: path("services", service, "health"),
    fields: [{ name: "reason", label: "Reason", hint: "for others" }],
    body: (typed) => ({ backend, health: "unhealthy", reason: typed.reason ?? "" }),
  };
}

export function unmark(service: string, backend: string): Action {
  return {
    verb: "mark",
    label: "Mark healthy",
    kind: "plain",
    about: `${backend} is used again, where probes and proxies find it healthy.`,
    line: shell("mark", service, backend, "healthy"),
    method: "POST",
    url: path("services", service, "health"),
    body: () => ({ backend, health: "healthy" }),
  };
}

export const reload: Action = {
  verb: "reload",
  label: "Reload",
  kind: "main",
  about: "envoy-configs is read again. What is wrong is refused as a whole, and the last good configuration stays.",
  line: "rollout config reload",
  method: "POST",
  url: "/v1/config/reload",
  body: () => ({}),
};

const AS_JSON = "Strategy as JSON";
const JSON_HINT = '{"stages": ["10%", "100%"]}; a file in YAML: rollout strategy put NAME FILE';

const namedStrategies = async (): Promise<[string, string][]> =>
  (await get<{ strategies: { name: string }[] }>("/v1/strategies")).strategies.map(({ name }) => [name, name]);

export function deploy(service: Service): Action {
  const usual: [string, string][] = [["", "the usual stages: 1, 10, 50, 100 %"]];
  const first = service.versions.find((each) => each.version === service.stable)?.backends[0] ?? "10.0.0.5:8080";
  return {
    verb: "deploy",
    label: "Deploy",
    subject: `${service.service}, now on ${service.stable}`,
    kind: service.in_progress ? "plain" : "main",
    about: service.in_progress
      ? "A rollout is in progress. With “after the present one” that is taken back first."
      : `A new version of ${service.service} gets traffic in stages, as long as it is no worse than ${service.stable}.`,
    method: "POST",
    url: path("services", service.service, "rollouts"),
    fields: [
      { name: "version", label: "Version", hint: "a name of your choice, as v2", required: true },
      { name: "endpoints", label: "Backends", hint: `one a line, as ${first}@region/zone`, lines: 4 },
      { name: "strategy", label: "Strategy", options: [...usual, ["stages", "stages of my own"], ["json", "as JSON"]], known: namedStrategies },
      { name: "stages", label: "Stages", hint: "5%, 25%, 100%", when: ["strategy", "stages"] },
      { name: "json", label: AS_JSON, hint: JSON_HINT, lines: 5, when: ["strategy", "json"] },
      ...(service.in_progress
        ? [{ name: "supersede", label: "When", options: [["", "now"], ["yes", "after the present one, which is taken back"]] as [string, string][] }]
        : []),
    ],
    body: deployment,
  };
}

function deployment(typed: Typed): unknown {
  const endpoints = listed(typed.endpoints);
  return {
    version: (typed.version ?? "").trim(),
    ...(endpoints.length ? { endpoints } : {}),
    ...strategyOf(typed),
    ...(typed.supersede ? { supersede: true } : {}),
  };
}

function strategyOf(typed: Typed): { strategy?: unknown } {
  switch (typed.strategy) {
    case "":
    case undefined:
      return {};
    case "stages": {
      const stages = listed(typed.stages);
      if (!stages.length) throw new Error("Stages: give at least one weight, as 5%, 25%, 100%");
      return { strategy: { stages: stages.map((each) => (each.endsWith("%") ? each : `${each}%`)) } };
    }
    case "json":
      return { strategy: fromJson(AS_JSON, typed.json) };
    default:
      return { strategy: typed.strategy };
  }
}

export function addStrategy(known: string[]): Action {
  return {
    verb: "strategy put",
    label: "New strategy",
    kind: "main",
    about: "Deployments may name it from now on.",
    method: "PUT",
    url: ({ name = "" }) => path("strategies", name.trim()),
    fields: [
      { name: "name", label: "Name", hint: "as careful", required: true },
      { name: "json", label: AS_JSON, hint: JSON_HINT, lines: 10, required: true },
    ],
    body: ({ name = "", json }) => {
      if (known.includes(name.trim())) throw new Error(`Name: there is a strategy ${name.trim()}; edit that one`);
      return { strategy: fromJson(AS_JSON, json) };
    },
    guard: IF_NONE,
  };
}

const IF_NONE = { "If-Match": '"none"' };
/** No state has this tag: who could not read what is there must not write over it. */
const NEVER = { "If-Match": '""' };

export function editStrategy(strategy: NamedStrategy, guard: Record<string, string> = NEVER): Action {
  const { name } = strategy;
  const url = path("strategies", name);
  const value = JSON.stringify(strategy.strategy, null, 2);
  return {
    verb: "strategy put",
    label: "Edit",
    kind: "plain",
    about: "Rollouts that begin by it go so from now on; those in progress keep what they began with.",
    method: "PUT",
    url,
    fields: [{ name: "json", label: AS_JSON, hint: "what is [redacted] stays as it is", lines: 14, required: true, value }],
    body: ({ json }) => ({ strategy: fromJson(AS_JSON, json) }),
    guard,
    fresh: async () => editStrategy(...(await getGuarded<NamedStrategy>(url))),
  };
}

export function removeStrategy(name: string): Action {
  return {
    verb: "strategy remove",
    label: "Remove",
    kind: "danger",
    about: "Deployments cannot name it any more. Rollouts that began by it go on.",
    line: shell("strategy", "remove", name),
    method: "DELETE",
    url: path("strategies", name),
    body: () => undefined,
  };
}

const ROLES: [string, string][] = [
  ["viewer", "viewer: looks on"],
  ["operator", "operator: rollouts and backends"],
  ["admin", "admin: everything"],
];

export const createToken: Action = {
  verb: "token create",
  label: "New token",
  kind: "main",
  about: "Whoever has it may do what its role says. It is shown once, when it is made; the server keeps only its hash.",
  method: "POST",
  url: "/v1/tokens",
  fields: [
    { name: "name", label: "Name", hint: "what its owner is called in the records, as ci-shop", required: true },
    { name: "role", label: "Role", options: ROLES },
    { name: "services", label: "Services", hint: "names or patterns, as shop-*; empty: all of them" },
    { name: "expires", label: "Expires after", hint: "12h, 90d or 4w; empty: never", value: "90d" },
  ],
  body: ({ name = "", role, services, expires = "" }) => ({
    name: name.trim(),
    role,
    services: listed(services),
    ...(expires.trim() ? { expires: expires.trim() } : {}),
  }),
  secret: "token",
};

export function revokeToken(token: Token, me: Me | null): Action {
  const own = me?.via === "session" && me.name === token.name;
  return {
    verb: "token revoke",
    label: "Revoke",
    kind: "danger",
    about: `Whoever has it is refused from now on; logins by it end.${own ? " You are logged in by it." : ""}`,
    line: shell("token", "revoke", token.name),
    method: "DELETE",
    url: path("tokens", token.id),
    body: () => undefined,
  };
}
