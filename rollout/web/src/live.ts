// Keeping what the page knows true: by the stream of events, or by asking every two seconds where there is none.

import { get, path, Problem, whoAmI, setCsrf } from "./api";
import { present } from "./present";
import { fromOverview, fromServices } from "./rows";
import type { Route } from "./router";
import type { Happening, Me, ProxyNode, Row, Service } from "./shapes";
import { hear, know, learn } from "./store";

const POLL_MS = 2_000;
const SILENT_MS = 45_000; // the server says something at least every 15 s
const STREAM_AGAIN_MS = 30_000; // how long a refused stream is left alone
const FIRST_EVENTS = 100;
const FLEET_PAGE = 1_000;
const FLEET_MOST = 20_000;
const FLEET_MS = 10_000;
const HIDDEN_MS = 60_000;

let wanted: Route = { view: "services", service: "", rollout: "" };
let source: EventSource | null = null;
let timer = 0;
let tries = 0;
let heardAt = 0;
let refusedUntil = 0;
let turn = 0;
let lastId: number | null = null;
let told = 0; // how often the stream has told what a view shows
let manyNodes = false;
let loadedAt = 0;
let hiddenTimer = 0;
let asleep = false;

/** Follow what a view shows. */
export function follow(route: Route): void {
  const changed = route.service !== wanted.service;
  wanted = route;
  if (changed) learn({ service: null, missing: "" });
  restart();
}

/** Stop asking, and forget what was told: nobody is logged in. */
export function rest(): void {
  turn += 1;
  lastId = null;
  close();
  learn({ me: null, asked: true, rows: null, service: null, nodes: null, events: [] });
}

/** Ask at once for what is shown, as after a change. */
export function refresh(): void {
  void load(turn).catch(() => undefined);
}

function restart(): void {
  asleep = false;
  turn += 1;
  tries = 0;
  close();
  void begin(turn);
}

function close(): void {
  clearTimeout(timer);
  source?.close();
  source = null;
}

function again(mine: number, ms: number): void {
  clearTimeout(timer);
  timer = window.setTimeout(() => void begin(mine), ms);
}

async function begin(mine: number): Promise<void> {
  if (mine !== turn || know().me === null) return;
  try {
    await load(mine);
    await (lastId === null ? firstEvents(mine) : newEvents(mine, lastId));
  } catch (error) {
    if (mine === turn) await failed(mine, error);
    return;
  }
  if (mine !== turn) return;
  tries = 0;
  if (Date.now() < refusedUntil) {
    learn({ link: "polling" });
    again(mine, POLL_MS);
  } else stream(mine);
}

async function failed(mine: number, error: unknown): Promise<void> {
  if (error instanceof Problem && error.status === 401) return;
  if (error instanceof Problem && error.status !== 0) {
    // the server is there, and has no such thing: it may come
    learn({ link: "polling", missing: error.message });
    again(mine, POLL_MS);
    return;
  }
  learn({ link: "lost" });
  tries += 1;
  again(mine, Math.min(5_000, 400 * 1.6 ** tries));
}

function views(): string[] {
  if (wanted.view === "fleet") return manyNodes ? [] : ["fleet"];
  if (wanted.view === "services" && wanted.service) return [`service:${wanted.service}`];
  return wanted.view === "services" ? ["services"] : [];
}

async function load(mine: number): Promise<void> {
  loadedAt = Date.now();
  const { view, service } = wanted;
  const before = told;
  // What the stream has told meanwhile is newer, or is soon followed by what is.
  const holds = () => mine === turn && told === before;
  if (view === "services" && service) {
    const found = await get<Service>(path("services", service));
    if (holds()) learn({ service: found, serviceAt: present(), missing: "" });
  } else if (view === "services") {
    const rows = await overview();
    if (holds()) learn({ rows });
  } else if (view === "fleet") {
    const nodes = await fleet();
    if (holds()) learn({ nodes });
  } else await get("/readyz");
}

/** All proxies, page by page; where they are more than a page the stream does not have them, and they are asked for. */
async function fleet(): Promise<ProxyNode[]> {
  const nodes: ProxyNode[] = [];
  let cursor = "";
  do {
    const more = cursor && `&cursor=${encodeURIComponent(cursor)}`;
    const page = await get<{ nodes: ProxyNode[]; next?: string | null }>(`/v1/fleet?limit=${FLEET_PAGE}${more}`);
    nodes.push(...page.nodes);
    cursor = page.next ?? "";
  } while (cursor && nodes.length < FLEET_MOST);
  manyNodes = nodes.length > FLEET_PAGE;
  return nodes;
}

async function overview(): Promise<Row[]> {
  try {
    return fromOverview((await get<{ services: Row[] }>("/v1/overview")).services);
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 404) throw error;
    return fromServices((await get<{ services: Service[] }>("/v1/services")).services);
  }
}

async function firstEvents(mine: number): Promise<void> {
  try {
    const found = await get<{ events: Happening[]; next: number }>(`/v1/events?limit=${FIRST_EVENTS}`);
    if (mine !== turn) return; // somebody else may be logged in by now
    hear(found.events);
    lastId = found.next;
  } catch (error) {
    if (!(error instanceof Problem) || error.status === 0 || error.status === 401) throw error;
    if (mine === turn) lastId = 0;
  }
}

/** What has happened since, where no stream tells it. */
async function newEvents(mine: number, after: number): Promise<void> {
  if (Date.now() >= refusedUntil) return;
  const found = await get<{ events: Happening[]; next: number; reset: unknown }>(`/v1/events?after=${after}&limit=${FIRST_EVENTS}`);
  if (mine !== turn) return;
  if (found.reset) learn({ events: [] });
  hear(found.events);
  lastId = found.next;
}

function stream(mine: number): void {
  const query = new URLSearchParams();
  const names = views();
  if (names.length) query.set("views", names.join(","));
  if (lastId !== null) query.set("after", String(lastId));
  const mySource = new EventSource(`/v1/events?${query}`);
  source = mySource;
  heardAt = Date.now();
  const on = <T>(name: string, use: (found: T) => void) => {
    mySource.addEventListener(name, (message: MessageEvent<string>) => {
      if (mine !== turn) return;
      heardAt = Date.now();
      if (know().link !== "live") learn({ link: "live" });
      use(JSON.parse(message.data) as T);
    });
  };
  mySource.onopen = () => {
    heardAt = Date.now();
    if (mine === turn) learn({ link: "live" });
  };
  on<Happening>("journal", (found) => {
    lastId = found.id;
    hear([found]);
  });
  on<{ oldest: number }>("reset", () => {
    lastId = null;
    learn({ events: [] });
    restart();
  });
  on<{ services: Row[] }>("services", (found) => {
    told += 1;
    learn({ rows: fromOverview(found.services) });
  });
  on<Service>("service", (found) => {
    if (found.service !== wanted.service) return;
    told += 1;
    learn({ service: found, serviceAt: present(), missing: "" });
  });
  on<{ nodes: ProxyNode[] }>("fleet", (found) => {
    told += 1;
    learn({ nodes: found.nodes });
  });
  mySource.onerror = () => {
    if (mine !== turn || mySource !== source) return;
    const refused = mySource.readyState === EventSource.CLOSED;
    close();
    void broken(mine, refused);
  };
}

/** A stream that ended: was it refused, is the server away, or are we logged out? */
async function broken(mine: number, refused: boolean): Promise<void> {
  try {
    const me = await whoAmI();
    if (mine !== turn) return;
    if (me === null) return;
    setCsrf(me.csrf);
    if (isOther(know().me, me)) {
      // In another tab somebody else has logged in: what was told is not for them.
      rest();
      learn({ me });
      restart();
      return;
    }
    if (refused) refusedUntil = Date.now() + STREAM_AGAIN_MS;
    again(mine, 100);
  } catch (error) {
    if (mine === turn) await failed(mine, error);
  }
}

const isOther = (before: Me | null, now: Me): boolean => JSON.stringify({ ...before, csrf: "" }) !== JSON.stringify({ ...now, csrf: "" });

/** Let go of the stream: a browser has few connections to a host, and a page that nobody sees needs none. */
function sleep(): void {
  asleep = true;
  turn += 1;
  close();
}

/** Notice a line that has gone dead without a word, and a page that was asleep. */
export function watch(): void {
  window.setInterval(() => {
    learn({ now: present() });
    if (source !== null && Date.now() - heardAt > SILENT_MS) restart();
    if (source !== null && manyNodes && wanted.view === "fleet" && Date.now() - loadedAt > FLEET_MS) refresh();
  }, 1_000);
  addEventListener("online", () => asleep || restart());
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiddenTimer);
    if (document.hidden) hiddenTimer = window.setTimeout(sleep, HIDDEN_MS);
    else if (asleep || know().link !== "live") restart();
  });
}
