// Who did what, from where, and what came of it; and whether the record is whole.

import { useState } from "preact/hooks";
import { isAdmin } from "../actions";
import { useAnswer } from "../answer";
import { get, Problem } from "../api";
import { useWorld } from "../store";
import { moment, plural } from "../words";
import { Awaited, Badge, Columns, Filter, Table, Title } from "../parts/bits";

interface Line {
  id: number;
  at: string;
  who: string;
  origin: string;
  verb: string;
  service: string;
  detail: string;
  result: string;
}

const ROWS = 500;

type Check = { words: string; whole: boolean } | null;

export function Audit() {
  const { found, fault } = useAnswer<{ rows: Line[] }>(`/v1/audit?limit=${ROWS}`);
  const [words, setWords] = useState("");
  const me = useWorld((world) => world.me);
  const [check, setCheck] = useState<Check>(null);
  const shown = (found?.rows ?? []).filter((each) => JSON.stringify(each).toLowerCase().includes(words.toLowerCase()));
  return (
    <>
      <div class="head">
        <Title name="Audit">Audit</Title>
        <Filter label="Filter the audit log" value={words} change={setWords} />
        {isAdmin(me) && (
          <button type="button" onClick={() => void verify().then(setCheck)}>
            Verify
          </button>
        )}
      </div>
      <div role="status">
        {check && (
          <p>
            <Badge tone={check.whole ? "good" : "bad"}>{check.whole ? "whole" : "not whole"}</Badge> {check.words}
          </p>
        )}
      </div>
      <Awaited what="the audit log" found={found} fault={fault} />
      {found && (
        <Table caption="Audit log, the newest first" class="stacks">
          <Columns names={["at", "who", "what", "service", "result", "from"]} />
          <tbody>
            {shown.map((each) => (
              <tr key={each.id}>
                <th scope="row" class="small figure">
                  {moment(each.at)}
                </th>
                <td data-label="who">
                  {each.who}
                </td>
                <td data-label="what" class="wide">
                  <span>
                    {each.verb} <span class="small">{each.detail}</span>
                  </span>
                </td>
                <td data-label="service">{each.service || "–"}</td>
                <td data-label="result">
                  {each.result}
                </td>
                <td data-label="from" class="small">
                  {each.origin}
                </td>
              </tr>
            ))}
          </tbody>
        </Table>
      )}
    </>
  );
}

async function verify(): Promise<Check> {
  try {
    const told = await get<{ rows: number; broken: { row: number; why: string } | null }>("/v1/audit/verify");
    if (told.broken) return { whole: false, words: `row ${told.broken.row}: ${told.broken.why}` };
    return { whole: true, words: `${plural(told.rows, "row")}, each with the hash of the one before` };
  } catch (error) {
    return { whole: false, words: error instanceof Problem ? error.message : String(error) };
  }
}
