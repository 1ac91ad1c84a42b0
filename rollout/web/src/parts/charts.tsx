// Both versions over time: weight, errors, latency; each chart with its latest values as a table.

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { get, path, Problem } from "../api";
import { present } from "../present";
import type { Counts, Points, Rollout, SidePoints } from "../shapes";
import { useWorld } from "../store";
import { clock, judged, milliseconds, percent, share } from "../words";
import { Quiet, Table } from "./bits";

type Values = (number | null)[];

interface Line {
  words: string;
  color: "candidate" | "stable" | "wanted";
  dashed?: boolean;
  values: Values;
}

interface ChartProps {
  title: string;
  at: number[];
  lines: Line[];
  say: (value: number | null | undefined) => string;
  /** The scale goes as high as the values, but at least to the first of these and never beyond the second. */
  least: number;
  top: number;
}

const HEIGHT = 180;
const LEAST_S = 30;
const STEPS_S = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400];
const LOAD_MS = 30_000; // in between, what is measured is added here

export function Charts({ rollout }: { rollout: Rollout }) {
  const points = usePoints(rollout);
  if (points === "none") return <Quiet>The server keeps no figures of this rollout.</Quiet>;
  if (points === null) return <Quiet>Asking for the figures …</Quiet>;
  if (!points.at.length) return <Quiet>No figures yet: they begin when traffic is shifted.</Quiet>;
  const names = { stable: rollout.stable, candidate: rollout.candidate };
  return (
    <div class="charts">
      <Chart
        title="Weight"
        at={points.at}
        least={1}
        top={100}
        say={(value) => (value === null || value === undefined ? "–" : percent(value))}
        lines={[
          { words: rollout.waves.length ? "wanted in all" : "wanted", color: "wanted", dashed: true, values: points.wanted_percent },
          { words: `${names.candidate} measured${rollout.waves.length ? " where it moves" : ""}`, color: "candidate", values: points.measured_percent },
        ]}
      />
      <Chart title="Error share" at={points.at} least={0.01} top={1} say={share} lines={pair(names, points, "error_share")} />
      <Chart title="Latency p50" at={points.at} least={1} top={Number.POSITIVE_INFINITY} say={milliseconds} lines={pair(names, points, "p50_ms")} />
      <Chart title="Latency p99" at={points.at} least={1} top={Number.POSITIVE_INFINITY} say={milliseconds} lines={pair(names, points, "p99_ms")} />
    </div>
  );
}

const pair = (names: { stable: string; candidate: string }, points: Points, figure: "error_share" | "p50_ms" | "p99_ms"): Line[] =>
  (["stable", "candidate"] as const).map((side) => ({ words: names[side], color: side, values: asked(points[side], figure) }));

/** Figures of the times in which there were requests: what ends later, of old ones, tells nothing of a version. */
const asked = (side: SidePoints, figure: "error_share" | "p50_ms" | "p99_ms"): Values =>
  side[figure].map((value, at) => (side.requests[at] === 0 ? null : value));

/** The figures of a rollout: those that the server keeps, and behind them what has been measured since. */
function usePoints(rollout: Rollout): Points | null | "none" {
  const [points, setPoints] = useState<Points | null | "none">(null);
  const link = useWorld((world) => world.link);
  useEffect(() => {
    let timer = 0;
    const stop = new AbortController();
    const load = async () => {
      try {
        setPoints(await get<Points>(path("services", rollout.service, "rollouts", rollout.id, "points"), stop.signal));
      } catch (error) {
        if (stop.signal.aborted) return;
        if (error instanceof Problem && error.status === 404) {
          setPoints("none");
          return;
        }
      }
      if (rollout.in_progress && !stop.signal.aborted) timer = window.setTimeout(() => void load(), LOAD_MS);
    };
    void load();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [rollout.service, rollout.id, rollout.in_progress, link === "lost"]);
  useEffect(() => setPoints((known) => (known === null || known === "none" ? known : withLook(known, rollout))), [rollout]);
  return points;
}

/** The figures with those of now, while traffic is judged. */
export function withLook(points: Points, rollout: Rollout): Points {
  const at = present() / 1000;
  const { measured } = rollout;
  if (!measured || !judged(rollout) || at - (points.at.at(-1) ?? 0) < 0.9) return points;
  const side = (known: SidePoints, now: Counts): SidePoints => ({
    requests: [...known.requests, now.requests],
    error_share: [...known.error_share, now.error_share],
    p50_ms: [...known.p50_ms, now.p50_ms],
    p99_ms: [...known.p99_ms, now.p99_ms],
  });
  return {
    at: [...points.at, at],
    wanted_percent: [...points.wanted_percent, rollout.weight_percent],
    measured_percent: [...points.measured_percent, measured.weight_percent],
    stable: side(points.stable, measured.stable),
    candidate: side(points.candidate, measured.candidate),
  };
}

function Chart({ title, at, lines, say, least, top }: ChartProps) {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const theme = useTheme();
  const shape = lines.map((line) => line.words).join("|");
  const latest = lines.map((line) => line.values.findLast((value) => value !== null));

  useEffect(() => {
    const box = host.current;
    if (!box) return;
    const made = new uPlot(options(box, lines, say, [least, top]), data(at, lines), box);
    plot.current = made;
    const resized = new ResizeObserver(() => made.setSize({ width: box.clientWidth, height: HEIGHT }));
    resized.observe(box);
    return () => {
      resized.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [theme, shape]);
  useEffect(() => plot.current?.setData(data(at, lines)), [at, lines]);

  const words = lines.map((line, number) => `${line.words} ${say(latest[number])}`).join(", ");
  return (
    <figure class="chart">
      <figcaption>
        <b>{title}</b>
        {lines.map((line, number) => (
          <span key={line.words}>
            <i class={`swatch ${line.color}`} aria-hidden="true" /> {line.words} <span class="figure">{say(latest[number])}</span>
          </span>
        ))}
      </figcaption>
      <div ref={host} class="plot" role="img" aria-label={`${title} over time; latest: ${words}`} />
      <Latest title={title} at={at} lines={lines} say={say} />
    </figure>
  );
}

const SHOWN = 12;

function Latest({ title, at, lines, say }: Omit<ChartProps, "least" | "top">) {
  const [open, setOpen] = useState(false);
  const from = Math.max(0, at.length - SHOWN);
  const rows = at.slice(from).map((_, number) => at.length - 1 - number);
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        Values<span class="unseen"> of {title}</span>
      </summary>
      {open && (
        <Table caption={`${title}: the latest values`}>
          <thead>
            <tr>
              <th scope="col">at</th>
              {lines.map((line) => (
                <th scope="col" class="right" key={line.words}>
                  {line.words}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={at[row]}>
                <th scope="row">{clock(1000 * (at[row] ?? 0))}</th>
                {lines.map((line) => (
                  <td class="right" key={line.words}>
                    {say(line.values[row])}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </Table>
      )}
    </details>
  );
}

const data = (at: number[], lines: Line[]): uPlot.AlignedData => [at, ...lines.map((line) => line.values)];

function options(box: HTMLElement, lines: Line[], say: ChartProps["say"], [least, top]: [number, number]): uPlot.Options {
  const style = getComputedStyle(box);
  const ink = (name: string): string => resolved(box, style.getPropertyValue(`--${name}`));
  const grid = { stroke: ink("line"), width: 1 };
  const axis = { stroke: ink("quiet"), grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  return {
    width: box.clientWidth || 300,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: true, points: { show: true }, drag: { x: false, y: false }, y: false },
    padding: [8, 26, 0, 0],
    scales: {
      x: { range: (_plot, low, high) => [low, Math.max(high, low + LEAST_S)] },
      y: { range: (_plot, _low, high) => [0, Math.min(top, Math.max(least, 1.15 * (high ?? 0)))] },
    },
    axes: [
      { ...axis, size: 28, space: 70, incrs: STEPS_S, values: (_plot, splits) => splits.map((split) => clock(1000 * split)) },
      { ...axis, size: 58, space: 34, values: (_plot, splits) => splits.map((split) => say(split)) },
    ],
    series: [
      {},
      ...lines.map((line) => ({
        label: line.words,
        stroke: ink(line.color),
        width: line.dashed ? 1.5 : 2,
        ...(line.dashed ? STEPPED : {}),
        points: { show: false, size: 6, fill: ink(line.color), filter: alone },
        spanGaps: false,
      })),
    ],
  };
}

/** The points between gaps, of which no line can be drawn. */
function alone(plot: uPlot, series: number): number[] | null {
  const values: Values = [...(plot.data[series] ?? [])].map((value) => value ?? null);
  const found = values.flatMap((value, at) =>
    value !== null && (values[at - 1] ?? null) === null && (values[at + 1] ?? null) === null ? [at] : [],
  );
  return found.length ? found : null;
}

/** What is wanted changes from one moment to the next. */
const STEPPED: Pick<uPlot.Series, "dash" | "paths"> = {
  dash: [5, 4],
  paths: (plot, series, from, to) => uPlot.paths.stepped?.({ align: 1 })(plot, series, from, to) ?? null,
};

/** A canvas knows no variables and no light-dark(): let the browser work out the colour. */
function resolved(box: HTMLElement, color: string): string {
  const probe = document.createElement("i");
  probe.style.color = color;
  box.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function useTheme(): string {
  const chosen = useWorld((world) => world.theme);
  const [dark, setDark] = useState(() => matchMedia("(prefers-color-scheme: dark)").matches);
  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const look = () => setDark(query.matches);
    query.addEventListener("change", look);
    return () => query.removeEventListener("change", look);
  }, []);
  return `${chosen} ${dark}`;
}
