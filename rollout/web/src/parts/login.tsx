// Logging in with a token: the server keeps a session, and the page keeps nothing.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { change, Problem, setCsrf } from "../api";
import type { Me } from "../shapes";
import { learn } from "../store";
import { Title } from "./bits";

export function Login() {
  const [token, setToken] = useState("");
  const [fault, setFault] = useState("");
  const [busy, setBusy] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => {
    const focus = () => field.current?.focus();
    focus();
    // Under a dialog, as that of the first token, nothing takes the focus: then it does when that closes.
    const dialog = document.querySelector("dialog[open]");
    dialog?.addEventListener("close", focus);
    return () => dialog?.removeEventListener("close", focus);
  }, []);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setFault("");
    try {
      const me = await change<Me>("POST", "/v1/session", { token: token.trim() });
      setCsrf(me.csrf);
      setToken("");
      learn({ me, said: `Logged in as ${me.name}` });
    } catch (error) {
      setFault(faultWords(error));
    }
    setBusy(false);
  };
  return (
    <section class="card login" aria-labelledby="login">
      <form onSubmit={submit}>
        <Title name="Log in">
          <span id="login">Log in</span>
        </Title>
        <p>
          An admin makes tokens: <code>rollout token create NAME --role operator</code>
        </p>
        <p class="field">
          <label for="token">Token</label>
          <input
            ref={field}
            id="token"
            type="password"
            autocomplete="current-password"
            required
            value={token}
            aria-describedby={fault ? "login-fault" : undefined}
            onInput={(event) => setToken(event.currentTarget.value)}
          />
        </p>
        {fault && (
          <p class="fault" role="alert" id="login-fault">
            <span aria-hidden="true">✕ </span>
            {fault}
          </p>
        )}
        <button type="submit" class="primary" disabled={busy}>
          {busy ? "Asking …" : "Log in"}
        </button>
      </form>
    </section>
  );
}

function faultWords(error: unknown): string {
  if (!(error instanceof Problem)) return String(error);
  if (error.status === 429 && error.retryAfter) return `${error.message} (again in ${error.retryAfter} s)`;
  // The server says how a program shows its token.
  if (error.status === 401) return "this token is not known, or has expired";
  return error.message;
}
