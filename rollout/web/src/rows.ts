// Services in one row each, those that need somebody first.

import type { Row, Service } from "./shapes";
import { needsPerson } from "./words";

/** How urgent a service is: 0 needs a person, then what goes wrong, what goes on, what ended badly, the rest. */
export function urgency(row: Row): number {
  const { verdict } = row;
  if (row.in_progress && (needsPerson(row.awaiting) || row.phase === "paused")) return 0;
  if (row.phase === "rolling_back" || (row.in_progress && (verdict === "fail" || verdict === "blind"))) return 1;
  if (row.unhealthy > 0) return 2;
  if (row.in_progress || row.draining > 0) return 3;
  return row.outcome === "rolled_back" ? 4 : 5;
}

const ordered = (rows: Row[]): Row[] =>
  rows.toSorted((one, other) => urgency(one) - urgency(other) || one.service.localeCompare(other.service));

export const fromOverview = (rows: Row[]): Row[] => ordered(rows);

/** The same from whole services, of a server without an overview. */
export function fromServices(services: Service[]): Row[] {
  return ordered(
    services.map((each) => ({
      service: each.service,
      stable: each.stable,
      candidate: each.rollout?.candidate ?? null,
      in_progress: each.in_progress,
      phase: each.rollout?.phase ?? null,
      outcome: each.rollout?.outcome ?? null,
      stage: each.rollout?.stage ?? null,
      stages: each.rollout?.track ?? [],
      weight_percent: each.rollout?.weight_percent ?? null,
      verdict: each.rollout?.verdict?.verdict ?? null,
      reason: each.rollout?.reason ?? "",
      waiting: each.rollout?.waiting ?? "",
      awaiting: each.rollout?.awaiting ?? null,
      unhealthy: each.unhealthy.filter((found) => !found.used).length,
      draining: each.drains.filter((found) => !found.removed).length,
      changed_at: each.rollout?.changed_at ?? null,
    })),
  );
}
