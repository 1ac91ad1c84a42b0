// The server's present: its clock may stand hours from the browser's, and all times that are shown are the server's.

// Until the server has told, the browser's clock is believed.
let begin = Date.now() - performance.now();

const SLACK_MS = 1_000; // a Date header knows whole seconds

/** What time it is on the server, in milliseconds; a browser's clock that is set meanwhile changes nothing. */
export const present = (): number => begin + performance.now();

/** Heed the Date header of an answer to what was asked at `askedAt`, by `performance.now()`. */
export function heed(date: string | null, askedAt: number): void {
  const told = Date.parse(date ?? "");
  const arrived = performance.now();
  const found = told + SLACK_MS / 2 - (askedAt + arrived) / 2;
  // How long it was on its way, and the part of a second that is not told, are no reason to jump.
  if (Math.abs(found - begin) > SLACK_MS + (arrived - askedAt) / 2) begin = found;
}
