// The small parts that every view is made of.

import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { useWorld } from "../store";
import { ago, moment, SIGNS, type Tone } from "../words";

export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return (
    <span class={`badge ${tone}`}>
      <span aria-hidden="true" class="sign">
        {SIGNS[tone]}
      </span>
      {children}
    </span>
  );
}

interface CardProps {
  title: string;
  aside?: ComponentChildren;
  class?: string;
  children: ComponentChildren;
}

export function Card({ title, aside, children, class: name }: CardProps) {
  const id = `card-${title.toLowerCase().replace(/\W+/g, "-")}`;
  return (
    <section class={`card ${name ?? ""}`} aria-labelledby={id}>
      <header>
        <h2 id={id}>{title}</h2>
        {aside && <div class="aside">{aside}</div>}
      </header>
      {children}
    </section>
  );
}

export function Ago({ at }: { at: string | null }) {
  const now = useWorld((world) => Math.floor(world.now / 5_000) * 5_000);
  return at ? (
    <time dateTime={at} title={moment(at)}>
      {ago(at, now)}
    </time>
  ) : null;
}

export function Quiet({ children }: { children: ComponentChildren }) {
  return <p class="quiet">{children}</p>;
}

interface AwaitedProps {
  what: string;
  found: unknown;
  fault: string;
}

/** What is said in place of an answer that is not there yet, or beside one that is old. */
export function Awaited({ what, found, fault }: AwaitedProps) {
  if (!fault) return found ? null : <Quiet>Asking for {what} …</Quiet>;
  return (
    <p class="fault" role="alert">
      {fault}
    </p>
  );
}

/** A table that scrolls by itself where it is too wide, so that the page does not. */
export function Table({ caption, children, class: name }: { caption: string; children: ComponentChildren; class?: string }) {
  return (
    <div class="scroll" role="region" aria-label={caption} tabIndex={0}>
      <table class={name}>
        <caption class="unseen">{caption}</caption>
        {children}
      </table>
    </div>
  );
}

/** The head of a table whose columns are words only. */
export function Columns({ names }: { names: string[] }) {
  return (
    <thead>
      <tr>
        {names.map((name) => (
          <th scope="col" key={name}>
            {name}
          </th>
        ))}
      </tr>
    </thead>
  );
}

interface FilterProps {
  label: string;
  value: string;
  change: (value: string) => void;
}

/** A box that narrows a table; the key / leads to it. */
export function Filter({ label, value, change }: FilterProps) {
  return (
    <label class="filter">
      <span class="unseen">{label}</span>
      <input
        type="search"
        placeholder={label}
        value={value}
        data-filter
        onInput={(event) => change(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Escape") change("");
        }}
      />
      <kbd aria-hidden="true">/</kbd>
    </label>
  );
}

interface ChipProps<T extends string> {
  label: string;
  chosen: T;
  offers: [T, string, number][];
  choose: (value: T) => void;
}

/** Kinds of rows, each with how many there are. */
export function Chips<T extends string>({ label, chosen, offers, choose }: ChipProps<T>) {
  return (
    <div class="chips" role="group" aria-label={label}>
      {offers.map(([value, words, number]) => (
        <button type="button" key={value} aria-pressed={chosen === value} onClick={() => choose(value)}>
          {words} <span class="number">{number}</span>
        </button>
      ))}
    </div>
  );
}

/** Title of a view: what the tab is called, and where the focus goes when the view changes. */
export function Title({ children, name }: { children: ComponentChildren; name: string }) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${name} – rollout`;
  }, [name]);
  return (
    <h1 ref={heading} tabIndex={-1}>
      {children}
    </h1>
  );
}

/** How far something is, as a bar; what it means is told beside it. */
export function Meter({ part, tone, label }: { part: number; tone: Tone; label: string }) {
  const width = Math.max(0, Math.min(1, part));
  return (
    <div
      class={`meter ${tone}`}
      role="meter"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.floor(100 * width)}
    >
      <span style={{ inlineSize: `${100 * width}%` }} />
    </div>
  );
}
