// Words and figures as people read them: durations, shares, phases, verdicts, and what they mean.

import type { Rollout, Stage, Verdict } from "./shapes";

export type Tone = "good" | "bad" | "warn" | "busy" | "calm";

/** Each meaning has a sign of its own, so that no colour is needed to tell them apart. */
export const SIGNS: Record<Tone, string> = { good: "✓", bad: "✕", warn: "!", busy: "▶", calm: "·" };

export const ENDED = ["completed", "rolled_back"];
export const BEFORE_STAGES = ["pending", "warming"];

const TONES: Record<string, Tone> = {
  completed: "good",
  pass: "good",
  rolled_back: "bad",
  rolling_back: "bad",
  fail: "bad",
  paused: "warn",
  blind: "warn",
  inconclusive: "calm",
  later: "calm",
};

export const toneOf = (word: string): Tone => TONES[word] ?? "busy";

export const phaseWords = (phase: string): string => phase.replaceAll("_", " ");

export function duration(seconds: number): string {
  const whole = Math.round(seconds);
  if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

/** "4 min ago", short enough for a table. */
export function ago(at: string | null, now: number): string {
  if (!at) return "";
  const seconds = Math.max(0, (now - Date.parse(at)) / 1000);
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

const two = (value: number): string => String(value).padStart(2, "0");

export function clock(at: string | number): string {
  const date = new Date(at);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

export function day(at: string): string {
  const date = new Date(at);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

export const moment = (at: string): string => `${day(at)} ${clock(at)}`;

const significant = (value: number, digits: number): string => String(Number(value.toPrecision(digits)));

export const percent = (value: number): string => `${significant(value, 4)} %`;
export const share = (part: number | null | undefined): string =>
  part === null || part === undefined ? "–" : `${significant(100 * part, 3)} %`;
export const milliseconds = (value: number | null | undefined): string => {
  if (value === null || value === undefined) return "–";
  return value >= 100 ? `${Math.round(value).toLocaleString("en")} ms` : `${significant(value, 3)} ms`;
};
export const count = (value: number): string => Math.round(value).toLocaleString("en");
export const plural = (value: number, noun: string): string => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** Evidence as odds: 100, 3.1e4 or 10^28, as the command line says it. */
export function odds(ln: number): string {
  if (ln >= Math.log(1e15)) return `10^${Math.round(ln / Math.LN10)}`;
  if (ln >= Math.log(999.5)) return Math.exp(ln).toExponential(1).replace("e+", "e");
  return ln > Math.log(0.001) ? significant(Math.exp(ln), 3) : "0";
}

const VERDICTS: Record<string, string> = {
  pass: "passes",
  fail: "fails",
  inconclusive: "not enough evidence yet",
  blind: "blind: data is missing",
};

export function verdictWords(verdict: Verdict): string {
  if (verdict.verdict === "inconclusive" && verdict.numbers && "held_s" in verdict.numbers) return "holds";
  return VERDICTS[verdict.verdict] ?? verdict.verdict;
}

export const SHORT_VERDICTS: Record<string, string> = { pass: "passes", fail: "fails", inconclusive: "not yet", blind: "blind" };

const AWAITED: Record<string, string> = {
  operator: "paused until it is resumed",
  decision: "somebody must decide",
  approval: "waits for an approval",
  thaw: "waits for the end of a freeze",
  hook: "waits for a hook",
};

export const awaitedWords = (awaiting: string | null): string => AWAITED[awaiting ?? ""] ?? "";
/** Whether a person is needed before anything goes on. */
export const needsPerson = (awaiting: string | null): boolean =>
  awaiting === "decision" || awaiting === "approval" || awaiting === "operator";

export function station(stage: Stage): string {
  switch (stage.kind) {
    case "mirror":
      return `mirror ${percent(stage.mirror_percent ?? 0)}`;
    case "match":
      return `only ${stage.match}`;
    case "preview":
      return "preview";
    default:
      return percent(stage.weight_percent ?? 0);
  }
}

export const judged = (rollout: Rollout): boolean => rollout.phase === "shifting" || rollout.resume === "shifting";

/** Where the next stage leads. */
export function ahead(rollout: Rollout): string {
  if (rollout.waves.length) return "one stage on in each location of the wave";
  const next = rollout.track[rollout.stage + 1];
  return next ? `on to ${station(next)}` : `on to the end: ${rollout.stable} is let go`;
}
