// Everything that happened, the newest first, as it comes in.

import { useState } from "preact/hooks";
import { useWorld } from "../store";
import type { Happening } from "../shapes";
import { Chips, Filter, Quiet, Title } from "../parts/bits";
import { Happenings } from "../parts/happenings";

type Kind = "all" | "wrong" | "rollouts" | "fleet" | "asked";

const KINDS: Record<Kind, (each: Happening) => boolean> = {
  all: () => true,
  wrong: (each) => each.severity === "warning" || each.severity === "critical",
  rollouts: (each) => each.kind.startsWith("rollout."),
  fleet: (each) => /^(proxy|config|server|backend)\./.test(each.kind),
  asked: (each) => each.kind === "operation",
};

export function Events() {
  const events = useWorld((world) => world.events);
  const [words, setWords] = useState("");
  const [kind, setKind] = useState<Kind>("all");
  const number = (wanted: Kind) => events.filter(KINDS[wanted]).length;
  const found = events.filter((each) => KINDS[kind](each) && matches(each, words));
  return (
    <>
      <div class="head">
        <Title name="Events">Events</Title>
        <Filter label="Filter events" value={words} change={setWords} />
      </div>
      <Chips
        label="Which events"
        chosen={kind}
        choose={setKind}
        offers={[
          ["all", "all", events.length],
          ["wrong", "warnings", number("wrong")],
          ["rollouts", "rollouts", number("rollouts")],
          ["fleet", "fleet", number("fleet")],
          ["asked", "asked for", number("asked")],
        ]}
      />
      {found.length ? <Happenings events={found} /> : <Quiet>Nothing like that has happened lately.</Quiet>}
    </>
  );
}

function matches(each: Happening, words: string): boolean {
  const text = `${each.service} ${each.kind} ${each.severity} ${each.text}`.toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}
