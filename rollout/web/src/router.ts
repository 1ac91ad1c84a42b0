// Which view the address bar names: #/services/checkout/rollouts/12 and the like.

import { useEffect, useState } from "preact/hooks";

export interface Route {
  view: string;
  service: string;
  rollout: string;
}

export function parse(hash: string): Route {
  const parts = hash.replace(/^#\/?/, "").split("/").map(decoded);
  const [view = "", service = "", word = "", rollout = ""] = parts;
  return { view: view || "services", service, rollout: word === "rollouts" ? rollout : "" };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const link = (...parts: (string | number)[]): string => `#/${parts.map((part) => encodeURIComponent(part)).join("/")}`;

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parse(location.hash));
  useEffect(() => {
    const look = () => setRoute(parse(location.hash));
    addEventListener("hashchange", look);
    return () => removeEventListener("hashchange", look);
  }, []);
  return route;
}
