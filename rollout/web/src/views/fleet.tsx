// The fleet: every proxy, what it has acknowledged, and what it refused in its own words.

import { useMemo, useState } from "preact/hooks";
import type { Nack, ProxyNode } from "../shapes";
import { useWorld } from "../store";
import { duration } from "../words";
import { Badge, Chips, Columns, Filter, Quiet, Table, Title } from "../parts/bits";

type Kind = "all" | "refused" | "behind" | "unread" | "away" | "fine";

export function kindsOf(node: ProxyNode): Kind[] {
  const types = Object.values(node.types);
  const kinds: Kind[] = [];
  if (types.some((each) => each.nack)) kinds.push("refused");
  if (node.connected && types.some((each) => each.waiting)) kinds.push("behind");
  if (node.connected && node.stats !== "ok") kinds.push("unread");
  if (!node.connected) kinds.push("away");
  return kinds.length ? kinds : ["fine"];
}

const ORDER: Kind[] = ["refused", "away", "unread", "behind", "fine"];
const rank = (node: ProxyNode): number => Math.min(...kindsOf(node).map((kind) => ORDER.indexOf(kind)));
const SHOWN = 100;

export function Fleet() {
  const nodes = useWorld((world) => world.nodes);
  const [words, setWords] = useState("");
  const [kind, setKind] = useState<Kind>("all");
  const [limit, setLimit] = useState(SHOWN);
  const found = useMemo(
    () =>
      (nodes ?? [])
        .filter((node) => (kind === "all" || kindsOf(node).includes(kind)) && matches(node, words))
        .toSorted((one, other) => rank(one) - rank(other) || one.node.localeCompare(other.node)),
    [nodes, words, kind],
  );
  const number = (wanted: Kind) => (nodes ?? []).filter((node) => kindsOf(node).includes(wanted)).length;
  return (
    <>
      <div class="head">
        <Title name="Fleet">Fleet</Title>
        <Filter label="Filter proxies" value={words} change={setWords} />
      </div>
      {nodes === null ? (
        <Quiet>Asking for the fleet …</Quiet>
      ) : (
        <>
          <Chips
            label="Which proxies"
            chosen={kind}
            choose={setKind}
            offers={[
              ["all", "all", nodes.length],
              ["refused", "refused something", number("refused")],
              ["behind", "behind", number("behind")],
              ["unread", "stats missing", number("unread")],
              ["away", "away", number("away")],
              ["fine", "as they should", number("fine")],
            ]}
          />
          <Table caption="Proxies of the fleet, those with problems first" class="fleet stacks">
            <Columns names={["proxy", "location", "stands", "acknowledged", "stats", "since"]} />
            <tbody>
              {found.slice(0, limit).map((node) => (
                <Line key={node.node + node.address} node={node} />
              ))}
            </tbody>
          </Table>
          {found.length > limit && (
            <button type="button" class="more" onClick={() => setLimit(limit + 5 * SHOWN)}>
              Show more of {found.length}
            </button>
          )}
          {!found.length && <Quiet>{nodes.length ? "No proxy is like that." : "No proxy has connected yet: see `rollout bootstrap`."}</Quiet>}
        </>
      )}
    </>
  );
}

function matches(node: ProxyNode, words: string): boolean {
  const text = [node.node, node.location, node.cluster, node.address, node.envoy, node.protocol].join(" ").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function Line({ node }: { node: ProxyNode }) {
  const kinds = kindsOf(node);
  const nacks = Object.entries(node.types).filter((each): each is [string, (typeof each)[1] & { nack: Nack }] => each[1].nack !== null);
  return (
    <tr>
      <th scope="row">
        {node.node}
        <span class="small versions">{[node.cluster, node.envoy && `Envoy ${node.envoy}`, node.protocol].filter(Boolean).join(", ")}</span>
      </th>
      <td data-label="location">{node.location || "no location"}</td>
      <td data-label="stands">
        {kinds.includes("refused") ? (
          <Badge tone="bad">refused</Badge>
        ) : kinds.includes("away") ? (
          <Badge tone="warn">away</Badge>
        ) : kinds.includes("behind") ? (
          <Badge tone="busy">behind</Badge>
        ) : (
          <Badge tone="good">has all</Badge>
        )}
      </td>
      <td data-label="acknowledged" class="wide">
        <span class="types">
          {Object.entries(node.types).map(([word, each]) => (
            <span key={word} class="type" title={each.acked ? `${word} ${each.acked}` : word}>
              {word} <code>{each.acked ? each.acked.slice(0, 7) : "none"}</code>
              {each.waiting && <span class="small"> sent, not answered</span>}
            </span>
          ))}
        </span>
        {nacks.map(([word, each]) => (
          <details key={word} class="nack">
            <summary>
              refused {word} {duration(each.nack.seconds)} ago: <span class="text">{each.nack.text}</span>
            </summary>
            <pre tabIndex={0}>{each.nack.text}</pre>
          </details>
        ))}
      </td>
      <td data-label="stats">{node.stats === "ok" ? "ok" : <Badge tone="warn">{node.stats}</Badge>}</td>
      <td data-label="since" class="small">
        {duration(node.seconds)}
      </td>
    </tr>
  );
}
