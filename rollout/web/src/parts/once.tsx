// What is told only once: it is shown until the dialog closes, and then nothing of the page has it any more.

import { useLayoutEffect, useRef, useState } from "preact/hooks";

interface OnceProps {
  secret: string;
  /** What the dialog's title and words are called by. */
  id: string;
  close: () => void;
}

/** No form: the second Enter of who presses it twice would close it unread. */
export function Once({ secret, id, close }: OnceProps) {
  const field = useRef<HTMLInputElement>(null);
  const [said, setSaid] = useState("");
  const select = () => {
    field.current?.focus();
    field.current?.select();
  };
  useLayoutEffect(select, []);
  const copy = async () => {
    select();
    try {
      await navigator.clipboard.writeText(secret);
      setSaid("Copied.");
    } catch {
      // Browsers have a clipboard for scripts over https and on loopback only.
      setSaid("It is selected: copy it by Ctrl+C.");
    }
  };
  return (
    <div class="form">
      <h2 id={`${id}-title`}>The new token</h2>
      <p id={`${id}-about`}>It is shown here only, and only until you close this. Keep it where secrets are kept.</p>
      <p class="field">
        <label for={`${id}-once`}>Token</label>
        <input ref={field} id={`${id}-once`} class="once" type="text" readOnly value={secret} autocomplete="off" spellcheck={false} />
      </p>
      <p role="status">{said}</p>
      <footer>
        <button type="button" onClick={() => void copy()}>
          Copy
        </button>
        <button type="button" class="primary" onClick={close}>
          Close
        </button>
      </footer>
    </div>
  );
}
