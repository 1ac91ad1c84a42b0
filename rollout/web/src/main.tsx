// The page: its frame, who is logged in, and the view that the address names.

import { Component, render, type ComponentChildren } from "preact";
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { isAdmin } from "./actions";
import { change, onLoggedOut, setCsrf, whoAmI } from "./api";
import { follow, rest, watch } from "./live";
import { present } from "./present";
import { link, parse, useRoute, type Route } from "./router";
import { know, learn, useWorld, type Link } from "./store";
import { Confirmations } from "./parts/dialog";
import { Keys, PLACES, useKeys } from "./parts/keys";
import { Login } from "./parts/login";
import { Audit } from "./views/audit";
import { Config } from "./views/config";
import { Events } from "./views/events";
import { Fleet } from "./views/fleet";
import { ServiceView } from "./views/service";
import { Services } from "./views/services";
import { Strategies } from "./views/strategies";
import { Tokens } from "./views/tokens";
import { Quiet, Title } from "./parts/bits";

const THEMES = ["", "light", "dark"];
const THEME_WORDS: Record<string, string> = { "": "as the system", light: "light", dark: "dark" };

function nextTheme(): void {
  const theme = THEMES[(THEMES.indexOf(know().theme) + 1) % THEMES.length] ?? "";
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // it is forgotten with this page then
  }
  learn({ theme, said: `Colours: ${THEME_WORDS[theme]}` });
}

function Page() {
  const route = useRoute();
  const me = useWorld((world) => world.me);
  const asked = useWorld((world) => world.asked);
  const [helping, setHelping] = useState(false);
  const main = useRef<HTMLElement>(null);
  const drawn = useRef(false);
  const help = useCallback(() => setHelping(true), []);
  useKeys({ help, theme: nextTheme });

  const key = `${route.view}/${route.service}/${route.rollout}`;
  useEffect(() => {
    if (me) follow(route);
  }, [key, me?.name, me === null]);
  useLayoutEffect(() => {
    // Before the next key is heard: what is typed then is meant for where it led.
    scrollTo(0, 0);
    if (drawn.current && know().me) main.current?.querySelector<HTMLElement>("h1")?.focus();
    drawn.current = true;
  }, [key]);

  return (
    <>
      <a class="skip" href="#main" onClick={(event) => {
        event.preventDefault();
        main.current?.focus();
      }}>
        To the content
      </a>
      <Bar route={route} help={help} />
      <main class="main" id="main" tabIndex={-1} ref={main}>
        <Shield key={key}>{me ? <View route={route} /> : asked ? <Login /> : <Quiet>Asking the server how things are …</Quiet>}</Shield>
      </main>
      <Said />
      <Confirmations />
      {helping && <Keys done={() => setHelping(false)} />}
    </>
  );
}

/** A fault in one view leaves the others usable. */
class Shield extends Component<{ children: ComponentChildren }, { fault: string }> {
  override state = { fault: "" };
  static getDerivedStateFromError(error: unknown) {
    return { fault: error instanceof Error ? error.message : String(error) };
  }
  override render() {
    if (!this.state.fault) return this.props.children;
    return (
      <p class="fault" role="alert">
        This view cannot be shown, which is a fault of the page: {this.state.fault}
      </p>
    );
  }
}

function View({ route }: { route: Route }) {
  switch (route.view) {
    case "services":
      return route.service ? <ServiceView key={route.service} name={route.service} rollout={route.rollout} /> : <Services />;
    case "fleet":
      return <Fleet />;
    case "config":
      return <Config />;
    case "events":
      return <Events />;
    case "strategies":
      return <Strategies />;
    case "audit":
      return <Audit />;
    case "tokens":
      return <Tokens />;
    default:
      return (
        <>
          <Title name="Not found">There is no such page</Title>
          <p>
            <a href={link("services")}>To the services</a>
          </p>
        </>
      );
  }
}

const OF_ADMINS = ["audit", "tokens"];

function Bar({ route, help }: { route: Route; help: () => void }) {
  const me = useWorld((world) => world.me);
  const theme = useWorld((world) => world.theme);
  const icon = document.querySelector<HTMLLinkElement>("link[rel=icon]")?.href ?? "";
  const places = PLACES.filter(([, view]) => !OF_ADMINS.includes(view) || isAdmin(me));
  return (
    <header class="bar">
      <a class="brand" href={link("services")}>
        <img src={icon} alt="" width={22} height={22} />
        rollout
      </a>
      {me && (
        <nav aria-label="Views">
          {places.map(([, view, words]) => (
            <a key={view} href={link(view)} aria-current={route.view === view ? "page" : undefined}>
              {words}
            </a>
          ))}
        </nav>
      )}
      <div class="tools">
        {me && <State />}
        <button type="button" class="tool" onClick={nextTheme} aria-label={`Colours: ${THEME_WORDS[theme]}; change`} title={`Colours: ${THEME_WORDS[theme]}`}>
          <span aria-hidden="true">{theme === "dark" ? "☾" : theme === "light" ? "☀" : "◐"}</span>
        </button>
        {me && (
          <button type="button" class="tool keyed" onClick={help} aria-label="Keys" title="Keys">
            <span aria-hidden="true">?</span>
          </button>
        )}
        {me && <Who />}
      </div>
    </header>
  );
}

function Who() {
  const me = useWorld((world) => world.me);
  if (!me) return null;
  const leave = async () => {
    await change("DELETE", "/v1/session", undefined).catch(() => undefined);
    setCsrf(null);
    rest();
  };
  return (
    <span class="who">
      <span>
        <b>{me.name || "anybody"}</b> <span class="small">{me.authentication ? me.role : "on this host"}</span>
      </span>
      {me.via === "session" && (
        <button type="button" onClick={() => void leave()}>
          Log out
        </button>
      )}
    </span>
  );
}

const LINKS: Record<Link, string> = {
  starting: "connecting",
  live: "live",
  polling: "asking every 2 s",
  lost: "connection lost, trying again",
};

function State() {
  const state = useWorld((world) => world.link);
  return (
    <span class={`state ${state}`} role="status">
      <i aria-hidden="true" />
      {LINKS[state]}
    </span>
  );
}

/** Tells screen readers what changed, without taking their focus. */
function Said() {
  const said = useWorld((world) => world.said);
  const phase = useWorld((world) => (world.service?.rollout ? spoken(world.service.rollout) : ""));
  return (
    <div class="unseen" aria-live="polite">
      <p>{said}</p>
      <p>{phase}</p>
    </div>
  );
}

function spoken(rollout: { service: string; phase: string; stage: number; weight_percent: number; awaiting: string | null }): string {
  const asks = rollout.awaiting ? `, waits for ${rollout.awaiting}` : "";
  return `${rollout.service}: ${rollout.phase.replaceAll("_", " ")} at ${rollout.weight_percent} %${asks}`;
}

async function start(): Promise<void> {
  onLoggedOut(rest);
  const host = document.getElementById("page");
  if (!host) return;
  host.replaceChildren();
  render(<Page />, host);
  watch();
  for (;;) {
    try {
      const me = await whoAmI();
      setCsrf(me?.csrf ?? null);
      learn({ me, asked: true, now: present() });
      return;
    } catch {
      learn({ link: "lost" });
      await new Promise((done) => setTimeout(done, 1_000));
    }
  }
}

if (!location.hash) history.replaceState(null, "", link(parse("").view));
void start();
