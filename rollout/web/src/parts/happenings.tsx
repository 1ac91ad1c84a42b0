// What has happened, the newest first, each with its reason.

import type { Happening } from "../shapes";
import { link } from "../router";
import { clock, day, type Tone } from "../words";
import { Badge } from "./bits";

const TONES: Record<string, Tone> = { info: "calm", notice: "busy", warning: "warn", critical: "bad" };

export const toneOfEvent = (each: Happening): Tone =>
  each.kind === "rollout.completed" ? "good" : (TONES[each.severity] ?? "calm");

export function Happenings({ events, of }: { events: Happening[]; of?: string }) {
  let before = "";
  const Day = of ? "h3" : "h2"; // below the heading of a card, or right below that of the view
  return (
    <ol class="events">
      {events.map((each) => {
        const today = day(each.at);
        const head = today !== before ? today : "";
        before = today;
        return (
          <li key={each.id} data-kind={each.kind}>
            {head && <Day class="day">{head}</Day>}
            <div class="event">
              <time dateTime={each.at}>{clock(each.at)}</time>
              <Badge tone={toneOfEvent(each)}>{each.kind.replace(".", ": ").replaceAll("_", " ")}</Badge>
              <span class="text">
                {!of && each.service && <a href={link("services", each.service)}>{each.service}</a>} {each.service ? each.text.replace(`${each.service}: `, "") : each.text}
              </span>
            </div>
          </li>
        );
      })}
    </ol>
  );
}
