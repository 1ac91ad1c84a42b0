"""The server's log: its format, its level, and a line for each change that is asked for, without secrets."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.rollout.commandline import configuration, ended_by, python, rollout

TOKEN = "the-very-secret-token"  # noqa: S105 - a test's


@contextmanager
def logged(folder: Path, *options: str) -> Iterator[tuple[str, list[str]]]:
    """Run a server; yield its URL, and the lines of its log, which are all there behind the block."""
    configs = folder / "configs"
    configs.mkdir()
    (configs / "all.yaml").write_text(configuration(["checkout"]))
    places = ("--configs", str(configs), "--data", str(folder / "data"))
    lines: list[str] = []
    with python(
        "serve", *places, "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", *options, ROLLOUT_TOKEN=TOKEN
    ) as process:
        assert process.stderr is not None
        with ended_by(process):
            for line in process.stderr:
                lines.append(line)
                found = re.search(r"admin API on (http://[\d.:]+)", line)
                if found:
                    break
            yield (found[1] if found else ""), lines
            process.terminate()
            lines += process.communicate()[1].splitlines(keepends=True)


def change(url: str, body: object) -> int:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}", "Idempotency-Key": "my-key"}
    try:
        with urlopen(Request(url, json.dumps(body).encode(), headers)) as response:  # noqa: S310 - http on loopback
            return int(response.status)
    except HTTPError as error:
        return error.code


def test_each_change_is_a_line_of_json_without_what_was_sent(tmp_path: Path) -> None:
    with logged(tmp_path, "--log-format", "json") as (url, lines):
        assert change(f"{url}/v1/services/checkout/adopt", {"version": "v1"}) == 200
        assert change(f"{url}/v1/services/checkout/undo?dry_run=true", {"to": "hidden-words"}) == 409
    asked = [entry for entry in map(json.loads, lines) if entry["event"] == "request"]
    assert [(each["method"], each["path"], each["status"]) for each in asked] == [
        ("POST", "/v1/services/checkout/adopt", 200),
        ("POST", "/v1/services/checkout/undo", 409),
    ]
    assert [each.get("dry_run") for each in asked] == [None, True]
    assert all(each["by"] and each["ms"] >= 0 and each["level"] == "info" for each in asked)
    for secret in (TOKEN, "hidden-words", "my-key"):
        assert secret not in json.dumps(asked)
    assert TOKEN not in "".join(lines)


def test_text_has_no_colours_where_there_is_no_terminal(tmp_path: Path) -> None:
    with logged(tmp_path, "--log-format", "text") as (url, lines):
        assert url
    assert all("\x1b" not in line and not line.startswith("{") for line in lines)
    assert any(re.match(r"\S+Z \[info +\] stopping", line) for line in lines), lines


def test_a_level_that_is_none_is_wrong_usage() -> None:
    result = rollout("serve", "--log-level", "loud")
    assert (result.exit_code, "'loud' is not one of" in result.output) == (2, True)
