"""What people see of the past: events, one in a line, and the audit log. Pure."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from rollout.screen.words import Json, instant, plain

_STYLES = {"info": "", "notice": "bold", "warning": "yellow", "critical": "bold red"}


def event_line(event: Json) -> Text:
    """For `events`: when, how much it matters, and what."""
    line = plain(f"{instant(event['at']):%Y-%m-%d %H:%M:%S}  ", "dim")
    line.append_text(plain(f"{event['severity']:<8}  ", _STYLES.get(event["severity"], "")))
    return line.append_text(plain(event["text"], "not dim"))


def audit_table(page: Json) -> RenderableType:
    """For `audit list`: rows, newest first, each in two lines; and the chain's head."""
    if not page["rows"]:
        return Text("nothing was asked for yet")
    lines = [line for row in page["rows"] for line in _audit(row)]
    return Group(*lines, plain(f"head {page['head']}", "dim"))


def _audit(row: Json) -> Iterator[Text]:
    what = " ".join(part for part in (row["verb"], row["service"], row["detail"]) if part)
    line = plain(f"{row['id']:>6}  {instant(row['at']):%Y-%m-%d %H:%M:%S}  ", "dim")
    yield line.append_text(plain(what, "not dim bold")).append_text(plain(f": {row['result']}", "not dim"))
    who = f"by {row['who'] or 'somebody unknown'}"
    yield plain(f"        {who}" + (f", {row['origin']}" if row["origin"] else ""), "dim")
