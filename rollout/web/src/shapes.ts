// The shapes of the API's answers, as far as the page reads them (see the reference of the admin API).

export interface Verdict {
  verdict: string;
  reason: string;
  numbers: Record<string, number>;
  notes: string[];
  host?: string;
}

export interface Stage {
  kind: "weight" | "match" | "mirror" | "preview";
  weight_percent: number | null;
  mirror_percent: number | null;
  match: string | null;
  hold_seconds: number;
  approve: boolean;
}

export interface Counts {
  requests: number;
  errors: number;
  error_share: number;
  p50_ms: number | null;
  p99_ms: number | null;
}

export interface Measured {
  weight_percent: number;
  stable: Counts;
  candidate: Counts;
  envoys: { node: string; weight_percent: number; acked_percent: number; requests: number; astray: boolean }[];
}

export interface Place {
  location: string;
  wave: number | null;
  phase: string;
  stage: number;
  stages: number[];
  weight_percent: number;
  envoys: number;
  verdict: { verdict: string; reason: string } | null;
  waiting_for: Record<string, string>;
  waiting: string;
  awaiting: string | null;
  reason: string;
}

export interface Drain {
  version: string;
  running: number | null;
  running_on: Record<string, number | null>;
  idle_looks: number;
  timed_out: boolean;
  cut: Record<string, number>;
  still_used?: Record<string, string[]>;
  safe_to_stop?: boolean;
}

export interface BackendDrain extends Drain {
  backend: string;
  removed: boolean;
  leaves: boolean;
}

export interface Hook {
  name: string;
  at: string;
  state: string;
  words: string;
  attempts: number;
}

export interface Summary {
  service: string;
  id: number;
  stable: string;
  candidate: string;
  phase: string;
  outcome: string;
  reason: string;
  origin: string;
  started_at: string;
  changed_at: string;
}

export interface Rollout extends Summary {
  in_progress: boolean;
  phase_seconds: number;
  stage: number;
  stages: number[];
  track: Stage[];
  keep_stable_seconds: number;
  stages_note: string | null;
  weight_percent: number;
  waves: string[];
  wave: number | null;
  locations: Place[];
  measured: Measured | null;
  verdict: Verdict | null;
  waiting_for: Record<string, string>;
  resume: string | null;
  awaiting: string | null;
  waiting: string;
  approved: boolean;
  point_of_no_return: string;
  hooks: Hook[];
  loser: string | null;
  drain: Drain | null;
}

export interface Unhealthy {
  version: string | null;
  backend: string;
  why: string;
  marked_by: string | null;
  since: string | null;
  used: boolean;
}

export interface Service {
  service: string;
  stable: string;
  in_progress: boolean;
  versions: { version: string; weight_percent: number; backends: string[] }[];
  drains: BackendDrain[];
  unhealthy: Unhealthy[];
  history: { requests_per_s: number | null; error_share: number | null; p50_ms: number | null; p99_ms: number | null } | null;
  rollout: Rollout | null;
  queued: { version: string; backends: string[]; by: string; at: string; fault: string | null } | null;
}

/** A service in one row. */
export interface Row {
  service: string;
  stable: string;
  candidate: string | null;
  in_progress: boolean;
  phase: string | null;
  outcome: string | null;
  stage: number | null;
  stages: unknown[];
  weight_percent: number | null;
  verdict: string | null;
  reason: string;
  waiting: string;
  awaiting: string | null;
  unhealthy: number;
  draining: number;
  changed_at: string | null;
}

export interface Nack {
  code: number;
  text: string;
  seconds: number;
}

export interface ProxyNode {
  node: string;
  cluster: string;
  location: string;
  address: string;
  protocol: string;
  envoy: string;
  connected: boolean;
  seconds: number;
  stats: string;
  types: Record<string, { acked: string | null; waiting: boolean; nack: Nack | null }>;
}

export interface Happening {
  id: number;
  at: string;
  kind: string;
  severity: "info" | "notice" | "warning" | "critical";
  service: string;
  rollout: number | null;
  text: string;
  detail: Record<string, unknown>;
}

export interface Me {
  name: string;
  role: "viewer" | "operator" | "admin";
  services: string[];
  via: string;
  authentication: boolean;
  csrf: string | null;
}

/** A token as everybody who may see it does: without its secret. */
export interface Token {
  id: string;
  name: string;
  role: string;
  services: string[];
  created_at: string;
  created_by: string;
  expires_at: string | null;
  expired: boolean;
  last_used_at: string | null;
}

export interface NamedStrategy {
  name: string;
  revision: number;
  by: string;
  at: string;
  strategy: unknown;
  stages: number[];
  warnings: string[];
}

/** Where the backends of a version are found, and how that stands. */
export interface Discovered {
  version: string;
  source: Record<string, unknown>;
  label: string;
  status: "unasked" | "fresh" | "stale";
  fault: string | null;
  warning: string | null;
}

export interface SidePoints {
  requests: (number | null)[];
  error_share: (number | null)[];
  p50_ms: (number | null)[];
  p99_ms: (number | null)[];
}

export interface Points {
  at: number[];
  wanted_percent: (number | null)[];
  measured_percent: (number | null)[];
  stable: SidePoints;
  candidate: SidePoints;
}

export interface Step {
  revision: number;
  at: string;
  phase: string;
  stage: number;
  wave: number;
  weight_percent: number;
  reason: string;
  verdict: Verdict | null;
  passed: Verdict | null;
  converged: boolean;
  waiting_for: Record<string, string>;
  by: string;
  command: string;
  awaiting: string | null;
  waiting: string;
  answers: { hook: string; at: string; agreed: boolean; words: string }[];
  let_go: string | null;
  locations: Place[];
  astray: string[];
  readings: { check: string; value: number | null; fault: string }[];
}

export interface Story extends Summary {
  track: Stage[];
  stages_note: string | null;
  journal: Step[];
}

export interface ConfigView {
  snapshot: string | null;
  loaded_at: string | null;
  files: { path: string; group: string; resources: Record<string, number> }[];
  last_refused: { at: string; by: string; problems: { where: string; what: string }[] } | null;
  warnings: string[];
}
