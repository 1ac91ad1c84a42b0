// Who may use the API: the tokens that were given out, without their secrets.

import { createToken, isAdmin, revokeToken } from "../actions";
import { useAnswer } from "../answer";
import type { Me, Token } from "../shapes";
import { lastChange, useWorld } from "../store";
import { moment } from "../words";
import { Ago, Awaited, Badge, Columns, Quiet, Table, Title } from "../parts/bits";
import { Buttons } from "../parts/dialog";

export function Tokens() {
  const me = useWorld((world) => world.me);
  const { found, fault } = useAnswer<{ tokens: Token[] }>("/v1/tokens", useWorld(lastChange));
  return (
    <>
      <div class="head">
        <Title name="Tokens">Tokens</Title>
        {isAdmin(me) && <Buttons actions={[createToken]} subject="" />}
      </div>
      <Awaited what="the tokens" found={found} fault={fault} />
      {found &&
        (found.tokens.length ? (
          <Given tokens={found.tokens} me={me} />
        ) : (
          <Quiet>None was given out. With the first one the server begins to ask everybody who they are, you too.</Quiet>
        ))}
    </>
  );
}

function Given({ tokens, me }: { tokens: Token[]; me: Me | null }) {
  return (
    <Table caption="Tokens that were given out" class="stacks">
      <Columns names={["name", "role", "services", "made", "expires", "last used", "you can"]} />
      <tbody>
        {tokens.map((each) => (
          <tr key={each.id}>
            <th scope="row">
              {each.name} <code class="small">{each.id}</code>
            </th>
            <td data-label="role">{each.role}</td>
            <td data-label="services" class="wide">
              {each.services.join(", ") || "all"}
            </td>
            <td data-label="made" class="wide">
              <span>
                <Ago at={each.created_at} /> <span class="small">by {each.created_by}</span>
              </span>
            </td>
            <td data-label="expires">{each.expired ? <Badge tone="bad">expired</Badge> : each.expires_at ? moment(each.expires_at) : "never"}</td>
            <td data-label="last used">{each.last_used_at ? <Ago at={each.last_used_at} /> : <span class="small">not since the server started</span>}</td>
            <td>
              <Buttons actions={[revokeToken(each, me)]} subject={each.name} small />
            </td>
          </tr>
        ))}
      </tbody>
    </Table>
  );
}
