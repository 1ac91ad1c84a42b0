// Asking the server: JSON in and out, faults as problems with words for people.

import { heed } from "./present";
import type { Me } from "./shapes";

export class Problem extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly retryAfter: string | null = null,
  ) {
    super(message);
  }
}

let csrf: string | null = null;
let lost: () => void = () => {};

export const setCsrf = (token: string | null): void => {
  csrf = token;
};

/** Have somebody told when the server says that nobody is logged in any more. */
export const onLoggedOut = (tell: () => void): void => {
  lost = tell;
};

export const path = (...parts: (string | number)[]): string => `/v1/${parts.map((part) => encodeURIComponent(part)).join("/")}`;

export const get = <T>(url: string, signal?: AbortSignal): Promise<T> => ask<T>("GET", url, undefined, {}, signal);

export const change = <T>(method: string, url: string, body: unknown, headers: Record<string, string> = {}): Promise<T> =>
  ask<T>(method, url, body, headers);

/** What is there now, and the headers by which a change is refused where it is not so any more. */
export async function getGuarded<T>(url: string): Promise<[T, Record<string, string>]> {
  const answer = await send("GET", url, undefined, {});
  const tag = answer.headers.get("ETag");
  return [(await answer.json()) as T, tag ? { "If-Match": tag } : {}];
}

async function ask<T>(...asked: Parameters<typeof send>): Promise<T> {
  const answer = await send(...asked);
  return (answer.status === 204 ? null : await answer.json()) as T;
}

async function send(
  method: string,
  url: string,
  body: unknown,
  headers: Record<string, string>,
  signal?: AbortSignal,
): Promise<Response> {
  const sent: Record<string, string> = { Accept: "application/json", ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  if (method !== "GET") Object.assign(sent, csrf ? { "X-CSRF-Token": csrf } : { "X-Rollout-User": "web page" });
  const askedAt = performance.now();
  let answer: Response;
  try {
    answer = await fetch(url, {
      method,
      headers: sent,
      credentials: "same-origin",
      cache: "no-store",
      body: body === undefined ? null : JSON.stringify(body),
      signal: signal ?? AbortSignal.timeout(15_000),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, "the server cannot be reached");
  }
  heed(answer.headers.get("Date"), askedAt);
  if (!answer.ok) throw await problemOf(answer, url);
  return answer;
}

async function problemOf(answer: Response, url: string): Promise<Problem> {
  let words = `${answer.status} ${answer.statusText}`;
  try {
    const told = (await answer.json()) as { detail?: unknown; title?: unknown };
    words = String(told.detail ?? told.title ?? words);
  } catch {
    // no problem document: the status says enough
  }
  if (answer.status === 401 && !url.endsWith("/session")) lost();
  return new Problem(answer.status, words, answer.headers.get("Retry-After"));
}

const NOBODY_NEEDED: Me = { name: "", role: "admin", services: [], via: "loopback", authentication: false, csrf: null };

/** Who we are; null when one must log in. */
export async function whoAmI(): Promise<Me | null> {
  try {
    return await get<Me>("/v1/me");
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) return null;
    if (error.status === 404) return NOBODY_NEEDED;
    throw error;
  }
}
