"""`rollout audit verify`: whether the audit log is all there, and unchanged; by a server, or without one."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

import typer
from rich.text import Text

from rollout import screen
from rollout.caller import DONE, FAILED, Caller
from rollout.chain import Verified
from rollout.cli.options import UNSAID, AsJson, Server
from rollout.client import Client, Json
from rollout.errors import RolloutError
from rollout.store.chronicle import verified
from rollout.store.folder import DATABASE_NAME

Head = Annotated[
    str | None, typer.Option(metavar="HASH", help="A head that was noted before: it must be in the chain.")
]
Data = Annotated[
    Path | None, typer.Option(metavar="DIR", help="A data folder, or a backup's file: no server is asked.")
]


def verify(*, data: Data = None, head: Head = None, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Go through the audit log: exits with 1, and names the first row that is wrong.

    The chain alone cannot show that its end was cut off together with what counts its rows: note its head elsewhere
    (`rollout audit list --json`, the server's log), and give it by --head later.

    Example: rollout audit verify --data /var/lib/rollout --head 7c1f...
    """
    caller = Caller(server, as_json)
    if data is None:
        query = f"?{urlencode({'head': head})}" if head else ""

        async def work(client: Client) -> int:
            view = await client.get(f"/v1/audit/verify{query}")
            caller.show(view, _words)
            return FAILED if view["broken"] else DONE

        caller.run(work)
    try:
        found = verified(data / DATABASE_NAME if data.is_dir() else data, head or "")
    except RolloutError as error:
        caller.fail(error)
    caller.show(_view(found), _words)
    raise typer.Exit(DONE if found.broken is None else FAILED)


def _view(found: Verified) -> Json:
    broken = None if found.broken is None else {"row": found.broken, "why": found.why}
    return {"rows": found.rows, "head": found.head, "broken": broken}


def _words(view: Json) -> Text:
    rows = screen.plural(view["rows"], "row")
    if view["broken"]:
        where = f"row {view['broken']['row']}: {view['broken']['why']}"
        return Text("broken: ", "bold red") + screen.plain(f"{where}; {rows} before it are as they were written")
    return Text("whole: ", "bold green") + screen.plain(f"{rows}, head {view['head']}")
