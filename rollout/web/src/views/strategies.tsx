// The strategies that have names: what deployments may go by.

import { addStrategy, editStrategy, mayChangeAll, removeStrategy } from "../actions";
import { useAnswer } from "../answer";
import type { NamedStrategy } from "../shapes";
import { lastChange, useWorld } from "../store";
import { percent } from "../words";
import { Ago, Awaited, Badge, Columns, Quiet, Table, Title } from "../parts/bits";
import { Buttons } from "../parts/dialog";

const MOST = 1_000;

export function Strategies() {
  const acts = mayChangeAll(useWorld((world) => world.me));
  const { found, fault } = useAnswer<{ strategies: NamedStrategy[] }>(`/v1/strategies?limit=${MOST}`, useWorld(lastChange));
  const names = (found?.strategies ?? []).map((each) => each.name);
  return (
    <>
      <div class="head">
        <Title name="Strategies">Strategies</Title>
        {acts && <Buttons actions={[addStrategy(names)]} subject="" />}
      </div>
      <Awaited what="the strategies" found={found} fault={fault} />
      {found &&
        (names.length ? (
          <Named strategies={found.strategies} acts={acts} />
        ) : (
          <Quiet>None has a name yet. A deployment that names none goes by the usual stages, or says its own.</Quiet>
        ))}
    </>
  );
}

function Named({ strategies, acts }: { strategies: NamedStrategy[]; acts: boolean }) {
  return (
    <Table caption="Strategies by name" class="stacks">
      <Columns names={["name", "stages", "as written", "changed", ...(acts ? ["you can"] : [])]} />
      <tbody>
        {strategies.map((each) => (
          <tr key={each.name}>
            <th scope="row">{each.name}</th>
            <td data-label="stages" class="wide">
              {each.stages.map(percent).join(", ") || "–"}
            </td>
            <td data-label="as written" class="wide">
              <div>
                <details>
                  <summary>Show</summary>
                  <pre>{JSON.stringify(each.strategy, null, 2)}</pre>
                </details>
                {each.warnings.map((warning) => (
                  <p key={warning}>
                    <Badge tone="warn">warning</Badge> {warning}
                  </p>
                ))}
              </div>
            </td>
            <td data-label="changed" class="wide">
              <span>
                <Ago at={each.at} /> <span class="small">by {each.by}, revision {each.revision}</span>
              </span>
            </td>
            {acts && (
              <td>
                <Buttons actions={[editStrategy(each), removeStrategy(each.name)]} subject={each.name} small />
              </td>
            )}
          </tr>
        ))}
      </tbody>
    </Table>
  );
}
