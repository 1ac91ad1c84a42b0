// The dialog in which something is confirmed: what it will do, what it needs, and what came of it.

import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Action, Field, Typed } from "../actions";
import { change, Problem } from "../api";
import { refresh } from "../live";
import { learn } from "../store";
import { Once } from "./once";

interface Asked {
  action: Action;
  subject: string;
}

let open: (asked: Asked | null) => void = () => {};

/** Ask for confirmation; `subject` is what it is about. */
async function confirm(action: Action, subject: string): Promise<void> {
  const fresh = await action.fresh?.().catch(() => undefined);
  open({ action: fresh ?? action, subject });
}

export function Confirmations() {
  const [asked, setAsked] = useState<Asked | null>(null);
  // A second press, while what is fresh is still asked for, does not put another action under what is typed already.
  open = (next) => setAsked((before) => (next && before) || next);
  return asked && <Confirmation key={`${asked.action.verb} ${asked.subject}`} {...asked} done={() => setAsked(null)} />;
}

const REHEARSE_MS = 350;

function Confirmation({ action, subject, done }: Asked & { done: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [typed, setTyped] = useState<Typed>(() => firstValues(action.fields ?? []));
  const [fault, setFault] = useState("");
  const [busy, setBusy] = useState(false);
  const [secret, setSecret] = useState("");
  const { would, asking } = useRehearsal(action, typed);
  const attempt = useRef({ key: "", body: "", unheard: false });
  const known = useKnown(action.fields ?? []);
  const id = useId();

  useLayoutEffect(() => {
    dialog.current?.showModal();
  }, []);

  const submit = async (event: Event) => {
    event.preventDefault();
    setFault("");
    setBusy(true);
    try {
      const body = action.body(typed);
      attempt.current = again(attempt.current, JSON.stringify(body) ?? "");
      const headers = { ...action.guard, "Idempotency-Key": attempt.current.key };
      const answer = await change<Answer>(action.method, urlOf(action, typed), body, headers);
      learn({ said: `${action.label}${subject && ` of ${subject}`}: ${answer?.unchanged ?? "done"}` });
      refresh();
      if (action.secret) setSecret(String(answer?.[action.secret] ?? ""));
      else dialog.current?.close();
    } catch (error) {
      attempt.current.unheard = error instanceof Problem && error.status === 0;
      setFault(faultWords(error));
      setBusy(false);
    }
  };

  return (
    <dialog ref={dialog} onClose={done} aria-labelledby={`${id}-title`} aria-describedby={`${id}-about`} class="confirm">
      {secret ? (
        <Once secret={secret} id={id} close={() => dialog.current?.close()} />
      ) : (
        <form onSubmit={submit} method="dialog">
          <h2 id={`${id}-title`}>
            {action.label} <span class="subject">{subject}</span>
          </h2>
          <p id={`${id}-about`}>{action.about}</p>
          {(action.fields ?? []).filter((field) => shown(field, typed)).map((field) => (
            <Input key={field.name} field={withKnown(field, known)} id={`${id}-${field.name}`} value={typed[field.name] ?? ""} change={(value) => setTyped({ ...typed, [field.name]: value })} />
          ))}
          {(asking || would) && (
            <div class={`would ${asking ? "asking" : would?.refused ? "refused" : ""}`} aria-live="polite" aria-busy={asking}>
              {asking || !would ? (
                "Asking the server …"
              ) : (
                <>
                  <strong>{would.refused ? "The server would refuse this: " : "The server says: "}</strong>
                  {would.words}
                </>
              )}
            </div>
          )}
          {action.line && (
            <p class="small">
              On the command line: <code>{action.line}</code>
            </p>
          )}
          {fault && (
            <p class="fault" role="alert">
              <span aria-hidden="true">✕ </span>
              {fault}
            </p>
          )}
          <footer>
            <button type="button" onClick={() => dialog.current?.close()}>
              Cancel
            </button>
            <button type="submit" class={action.kind === "danger" ? "danger" : "primary"} disabled={busy}>
              {busy ? "Asking …" : action.label}
            </button>
          </footer>
        </form>
      )}
    </dialog>
  );
}

type Answer = ({ unchanged?: string | null } & Record<string, unknown>) | null;

const urlOf = (action: Action, typed: Typed): string => (typeof action.url === "string" ? action.url : action.url(typed));

/** By field the options that the server knows, as they come. */
function useKnown(fields: Field[]): Record<string, [string, string][]> {
  const [known, setKnown] = useState<Record<string, [string, string][]>>({});
  useEffect(() => {
    for (const { name, known: ask } of fields) {
      ask?.()
        .then((options) => setKnown((before) => ({ ...before, [name]: options })))
        .catch(() => undefined); // without them the others are still there
    }
  }, []);
  return known;
}

function withKnown(field: Field, known: Record<string, [string, string][]>): Field {
  const [first, ...others] = field.options ?? [];
  return first ? { ...field, options: [first, ...(known[field.name] ?? []), ...others] } : field;
}

interface Attempt {
  key: string;
  body: string;
  unheard: boolean;
}

/** Where nothing was heard of the same wish it is asked for by the same key, so that it is not done twice. */
function again(before: Attempt, body: string): Attempt {
  return { key: before.unheard && before.body === body ? before.key : randomKey(), body, unheard: false };
}

const randomKey = (): string => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

const shown = ({ when }: Field, typed: Typed): boolean => !when || typed[when[0]] === when[1];

const firstValues = (fields: Field[]): Typed =>
  Object.fromEntries(fields.map((field) => [field.name, field.value ?? field.options?.[0]?.[0] ?? ""]));

function faultWords(error: unknown): string {
  if (error instanceof Problem && error.status === 412) return `${error.message} – the view was stale: look again.`;
  return error instanceof Error ? error.message : String(error);
}

interface Would {
  words: string;
  refused: boolean;
}

/** What the server says that would happen: nothing while it is asked, or where something is still missing. */
function useRehearsal(action: Action, typed: Typed): { would: Would | null; asking: boolean } {
  const [told, setTold] = useState<{ of: string; would: Would | null }>({ of: "", would: null });
  const body = JSON.stringify(typed);
  useEffect(() => {
    let current = true;
    const timer = setTimeout(async () => {
      const found = await rehearse(action, typed);
      if (current) setTold({ of: body, would: found });
    }, action.fields ? REHEARSE_MS : 0);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [body]);
  // What was said of other words is not shown any more, from the first key on.
  const asking = told.of !== body;
  return asking ? { would: null, asking: whole(action, typed) } : { would: told.would, asking };
}

const whole = (action: Action, typed: Typed): boolean =>
  (action.fields ?? []).every((field) => !field.required || Boolean(typed[field.name]));

async function rehearse(action: Action, typed: Typed): Promise<Would | null> {
  if (!whole(action, typed)) return null;
  try {
    const url = `${urlOf(action, typed)}?dry_run=true`;
    const answer = await change<{ would?: unknown }>(action.method, url, action.body(typed), action.guard);
    return answer?.would ? { words: wouldWords(answer.would), refused: false } : null;
  } catch (error) {
    const told = error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 404;
    return told ? { words: error.message, refused: true } : null;
  }
}

const wouldWords = (would: unknown): string =>
  typeof would === "string" ? would : Array.isArray(would) ? would.map(String).join("; ") : JSON.stringify(would);

interface InputProps {
  field: Field;
  id: string;
  value: string;
  change: (value: string) => void;
}

function Input({ field, id, value, change: set }: InputProps) {
  const hint = field.hint ? `${id}-hint` : undefined;
  const given = { id, name: field.name, required: field.required, "aria-describedby": hint };
  return (
    <p class="field">
      <label for={id}>{field.label}</label>
      {field.options ? (
        <select {...given} value={value} onChange={(event) => set(event.currentTarget.value)}>
          {field.options.map(([option, words]) => (
            <option key={option} value={option}>
              {words}
            </option>
          ))}
        </select>
      ) : field.lines ? (
        <textarea {...given} rows={field.lines} value={value} spellcheck={false} onInput={(event) => set(event.currentTarget.value)} />
      ) : (
        <input {...given} type="text" value={value} autocomplete="off" spellcheck={false} onInput={(event) => set(event.currentTarget.value)} />
      )}
      {field.hint && (
        <small id={hint}>{field.hint}</small>
      )}
    </p>
  );
}

const BUTTONS = { main: "primary", danger: "danger", plain: "" };

interface ButtonsProps {
  actions: Action[];
  subject: string;
  small?: boolean;
}

export function Buttons({ actions, subject, small }: ButtonsProps) {
  if (!actions.length) return null;
  return (
    <div class={`buttons ${small ? "compact" : ""}`}>
      {actions.map((action) => (
        <button
          type="button"
          key={action.verb + action.label}
          class={BUTTONS[action.kind]}
          aria-haspopup="dialog"
          title={action.about}
          onClick={() => void confirm(action, action.subject ?? subject)}
        >
          {action.label}
          {small && <span class="unseen"> {subject}</span>}
        </button>
      ))}
    </div>
  );
}
