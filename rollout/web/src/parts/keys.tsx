// Keys: where they lead, and the list of them.

import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { know } from "../store";

export const PLACES: [string, string, string][] = [
  ["s", "services", "Services"],
  ["f", "fleet", "Fleet"],
  ["r", "strategies", "Strategies"],
  ["c", "config", "Config"],
  ["e", "events", "Events"],
  ["a", "audit", "Audit"],
  ["t", "tokens", "Tokens"],
];

const TOGETHER_MS = 1_200;

interface Uses {
  help: () => void;
  theme: () => void;
}

/** Listen for keys, but not where somebody types, nor under a dialog, nor before anybody is logged in. */
export function useKeys({ help, theme }: Uses): void {
  useEffect(() => {
    let went = 0;
    const press = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || know().me === null || typing(event.target)) return;
      const place = Date.now() - went < TOGETHER_MS ? PLACES.find(([key]) => key === event.key) : undefined;
      went = 0;
      if (place) location.hash = `#/${place[1]}`;
      else if (event.key === "g") {
        went = Date.now();
        return;
      } else if (event.key === "?") help();
      else if (event.key === "t") theme();
      else if (event.key === "/") document.querySelector<HTMLElement>("[data-filter]")?.focus();
      else if (event.key === "u") location.hash = "#/services";
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, [help, theme]);
}

const typing = (target: EventTarget | null): boolean =>
  document.querySelector("dialog[open]") !== null ||
  (target instanceof Element && (target.closest("input, textarea, select") !== null || (target as HTMLElement).isContentEditable));

export function Keys({ done }: { done: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => dialog.current?.showModal(), []);
  const keys: [string, string][] = [
    ["/", "filter what is shown"],
    ...PLACES.map(([key, , words]): [string, string] => [`g ${key}`, words]),
    ["u", "up, to all services"],
    ["t", "dark, light, or as the system"],
    ["Esc", "empty the filter, or leave a dialog"],
    ["?", "this list"],
  ];
  return (
    <dialog ref={dialog} onClose={done} aria-labelledby="keys-title" class="keys">
      <h2 id="keys-title">Keys</h2>
      <dl>
        {keys.map(([key, words]) => (
          <div key={key}>
            <dt>
              {key.split(" ").map((each) => (
                <kbd key={each}>{each}</kbd>
              ))}
            </dt>
            <dd>{words}</dd>
          </div>
        ))}
      </dl>
      <form method="dialog">
        <button>Close</button>
      </form>
    </dialog>
  );
}
