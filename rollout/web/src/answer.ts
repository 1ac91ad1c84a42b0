// What the server answers to a question that a view asks: when it is opened, and again when something has changed.

import { useEffect, useState } from "preact/hooks";
import { get, Problem } from "./api";

/** `again` is what it is asked anew for: whatever differs when the last answer may be old. */
export function useAnswer<T>(url: string, again: string | number = ""): { found: T | null; fault: string } {
  const [found, setFound] = useState<T | null>(null);
  const [fault, setFault] = useState("");
  useEffect(() => {
    const stop = new AbortController();
    get<T>(url, stop.signal)
      .then((told) => {
        setFound(told);
        setFault("");
      })
      .catch((error: unknown) => {
        if (!stop.signal.aborted) setFault(error instanceof Problem ? error.message : String(error));
      });
    return () => stop.abort();
  }, [url, again]);
  return { found, fault };
}
