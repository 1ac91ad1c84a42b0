// The configuration that is served: its files, what it warns of, and the last change that was refused.

import { isAdmin, reload } from "../actions";
import { useAnswer } from "../answer";
import type { ConfigView } from "../shapes";
import { useWorld } from "../store";
import { moment } from "../words";
import { Ago, Awaited, Badge, Card, Columns, Quiet, Table, Title } from "../parts/bits";
import { Buttons } from "../parts/dialog";

export function Config() {
  const me = useWorld((world) => world.me);
  const changes = useWorld((world) => world.events.find((each) => each.kind.startsWith("config."))?.id ?? 0);
  const said = useWorld((world) => world.said);
  const { found: config, fault } = useAnswer<ConfigView>("/v1/config", `${changes} ${said}`);
  return (
    <>
      <div class="head">
        <Title name="Configuration">Configuration</Title>
        {isAdmin(me) && <Buttons actions={[reload]} subject="envoy-configs" />}
      </div>
      <Awaited what="the configuration" found={config} fault={fault} />
      {config && <Loaded config={config} />}
    </>
  );
}

function Loaded({ config }: { config: ConfigView }) {
  const refused = config.last_refused;
  return (
    <>
      <Card title="Served now">
        <p>
          Snapshot <code>{config.snapshot ?? "none"}</code>
          {config.loaded_at && (
            <>
              , loaded <Ago at={config.loaded_at} />
            </>
          )}
        </p>
        <Table caption="Files of envoy-configs" class="stacks">
          <Columns names={["file", "for", "resources"]} />
          <tbody>
            {config.files.map((file) => (
              <tr key={file.path}>
                <th scope="row">
                  <code>{file.path}</code>
                </th>
                <td data-label="for">{file.group || "all proxies"}</td>
                <td data-label="resources" class="wide">
                  {Object.entries(file.resources)
                    .map(([type, number]) => `${number} ${type}`)
                    .join(", ") || "none"}
                </td>
              </tr>
            ))}
          </tbody>
        </Table>
      </Card>
      <Card title="Last refused change">
        {refused ? (
          <>
            <p>
              <Badge tone="bad">refused</Badge> {moment(refused.at)}, asked for by {refused.by}. The configuration before it stays in use.
            </p>
            <ul class="problems">
              {refused.problems.map((each, number) => (
                <li key={number}>
                  <code>{each.where}</code> {each.what}
                </li>
              ))}
            </ul>
          </>
        ) : (
          <Quiet>None since the server started.</Quiet>
        )}
      </Card>
      {config.warnings.length > 0 && (
        <Card title="Warnings">
          <ul class="problems">
            {config.warnings.map((each) => (
              <li key={each}>
                <Badge tone="warn">warning</Badge> {each}
              </li>
            ))}
          </ul>
        </Card>
      )}
    </>
  );
}
