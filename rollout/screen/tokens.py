"""What people see of tokens: a table, and a line for one that was made or taken back."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from rollout.screen.words import NOTHING, Json, instant, plain, table


def tokens_table(tokens: Sequence[Json]) -> RenderableType:
    """For `token list`: every token that was given out."""
    if not tokens:
        return Text("no tokens; the first one that is made turns authentication on")
    rows = table("name", "id", "role", "services", "expires", "last used", "made by")
    for token in tokens:
        rows.add_row(
            plain(token["name"], "bold"),
            plain(token["id"], "dim"),
            plain(token["role"]),
            plain(", ".join(token["services"]) or "all"),
            plain("expired", "red") if token["expired"] else plain(_when(token["expires_at"], "never")),
            plain(_when(token["last_used_at"], NOTHING)),
            plain(token["created_by"]),
        )
    return rows


def token_words(token: Json) -> str:
    """For `token create`: what was made, without its secret."""
    of = f" of {', '.join(token['services'])}" if token["services"] else ""
    until = _when(token["expires_at"], "it is revoked")
    return f"token {token['name']} ({token['id']}): {token['role']}{of}, until {until}. Its secret is told only now:"


def revoked(token: Json) -> Text:
    """For `token revoke`."""
    return plain(f"token {token['name']} ({token['id']}) is revoked")


def _when(at: str | None, otherwise: str) -> str:
    return otherwise if at is None else f"{instant(at):%Y-%m-%d %H:%M} (UTC)"
