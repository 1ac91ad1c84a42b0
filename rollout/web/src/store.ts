// What the page knows, in one place; whoever shows a part of it is told when that part changes.

import { useEffect, useRef, useState } from "preact/hooks";
import { present } from "./present";
import type { Happening, Me, ProxyNode, Row, Service } from "./shapes";

export type Link = "starting" | "live" | "polling" | "lost";

export interface World {
  me: Me | null;
  /** Whether it is known yet who we are. */
  asked: boolean;
  link: Link;
  rows: Row[] | null;
  service: Service | null;
  /** When it was told, by the server's clock as all times here. */
  serviceAt: number;
  /** Why the service that is wanted cannot be shown. */
  missing: string;
  nodes: ProxyNode[] | null;
  /** The newest first. */
  events: Happening[];
  /** Said to screen readers when something happened. */
  said: string;
  now: number;
  theme: string;
}

let world: World = {
  me: null,
  asked: false,
  link: "starting",
  rows: null,
  service: null,
  serviceAt: 0,
  missing: "",
  nodes: null,
  events: [],
  said: "",
  now: present(),
  theme: document.documentElement.dataset.theme ?? "",
};
const readers = new Set<() => void>();

export const know = (): World => world;

export function learn(news: Partial<World>): void {
  world = { ...world, ...news };
  for (const each of [...readers]) each();
}

/** A part of what is known; the component is drawn again only when that part is another one. */
export function useWorld<T>(part: (world: World) => T): T {
  const [, redraw] = useState(0);
  const value = part(world);
  const drawn = useRef({ part, value });
  drawn.current = { part, value };
  useEffect(() => {
    const look = () => {
      const last = drawn.current;
      if (!Object.is(last.part(world), last.value)) redraw((n) => n + 1);
    };
    look(); // what came since it was drawn
    readers.add(look);
    return () => {
      readers.delete(look);
    };
  }, []);
  return value;
}

/** What is another one whenever somebody has changed what is there for all services. */
export const lastChange = (world: World): number => world.events.find((each) => each.kind === "operation" && !each.service)?.id ?? 0;

const KEPT_EVENTS = 500;

/** Put events in their order, each once. */
export function hear(news: Happening[]): void {
  const known = new Set(world.events.map((each) => each.id));
  const fresh = news.filter((each) => !known.has(each.id));
  if (!fresh.length) return;
  const events = [...world.events, ...fresh].sort((one, other) => other.id - one.id).slice(0, KEPT_EVENTS);
  learn({ events });
}
