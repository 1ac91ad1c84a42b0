"""The command line, against a real server for what it can show without Envoys, and a scripted one for the rest."""

import json
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import Result

from tests.rollout.commandline import (
    NOBODY,
    QUICK,
    SERVICES,
    Script,
    Server,
    configuration,
    ended_by,
    finished,
    python,
    rollout,
    scripted,
    serving,
    view,
    words,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), configuration(SERVICES)) as running:
        yield running


CHECKOUT = "/v1/services/checkout"


def test_help_tells_of_every_verb_and_version_is_printed() -> None:
    text = rollout("--help").stdout
    verbs = "serve deploy status watch list promote pause resume abort history explain drain adopt fleet lint bootstrap"
    assert all(f"  {verb} " in text for verb in (*verbs.split(), "config"))
    assert "Exit codes: 0 done" in text
    assert rollout("--version").stdout.startswith("rollout")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("deploy", "checkout", "v2"),
        ("deploy", "checkout", "--endpoint", "127.0.0.1:1"),
        ("deploy", "checkout", "v2", "--endpoint", "127.0.0.1:1", "--strategy", "/no/such/file"),
        ("status", ""),
        ("watch", " "),
        ("status", "--server", "ftp://127.0.0.1"),
        ("--server", "http://", "status"),
        ("explain", "checkout", "--rollout", "0"),
        ("bootstrap", "--node-id", "edge-1", "--location", "/eu-1"),
        ("bootstrap", "--node-id", "edge-1"),
        ("config",),
        ("serve", "--xds", "nonsense"),
        ("serve", "--admin", "nonsense"),
        ("drain", "checkout"),
        ("drain", "checkout", "127.0.0.1:1", "--location", "eu"),
        ("undrain", "checkout", "nonsense"),
        ("scale", "checkout", "v2"),
        ("scale", "checkout", "v2", "--add", "nonsense"),
        ("scale", "checkout", "v2", "--add", "127.0.0.1:1", "--endpoint", "127.0.0.1:2"),
        ("undo", "checkout", "--endpoint", "nonsense"),
        ("version",),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    assert rollout(*arguments).exit_code == 2


def test_a_server_that_is_not_there_is_an_error_that_says_what_to_do() -> None:
    result = rollout("status")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"error: no rollout server answers at {NOBODY} (connection refused); "
        "start one with `rollout serve`, or give --server or ROLLOUT_SERVER\n"
    )


def test_with_json_an_error_is_json_on_stdout() -> None:
    result = rollout("status", "--json")
    assert (result.exit_code, result.stderr, result.stdout.count("\n")) == (1, "", 1)
    error = json.loads(result.stdout)["error"]
    assert error["title"] == "Unavailable"
    assert "connection refused" in error["detail"]


@pytest.mark.parametrize("place", ["before", "behind", "environment"])
def test_the_server_is_named_before_the_verb_behind_it_or_by_the_environment(server: Server, place: str) -> None:
    option = ("--server", server.url.removeprefix("http://"))
    match place:
        case "before":
            result = rollout(*option, "list", server="http://127.0.0.1:8")
        case "behind":
            result = rollout("--server", NOBODY, "list", *option)
        case _:
            result = rollout("list", server=server.url)
    assert result.exit_code == 0
    assert "checkout" in result.stdout


def test_what_answers_but_is_no_rollout_server_is_said_to_be_none() -> None:
    with scripted(Script({"/v1/services": [b"<html>"]})) as url:
        result = rollout("list", server=url)
    assert result.exit_code == 1
    assert f"what answers at {url} is no rollout server (HTTP 200)" in result.stderr


def test_an_unknown_service_is_an_error_with_the_known_ones(server: Server) -> None:
    result = rollout("status", "nope/../x", server=server.url)
    assert result.exit_code == 1
    assert "error: there is no service 'nope/../x'; there are cart, checkout" in result.stderr
    error = json.loads(rollout("watch", "nope", "--json", server=server.url).stdout)["error"]
    assert (error["status"], error["title"]) == (404, "Unknown")


@pytest.mark.parametrize(
    ("code", "arguments", "expected"),
    [
        (2, ("v2", "--endpoint", "localhost:80"), "'localhost' is no IP address"),
        (2, ("v2", "--endpoint", "127.0.0.1"), "is no endpoint; write HOST:PORT"),
        (2, ("v2", "--endpoint", "127.0.0.1:99999"), "--endpoint: port"),
        (1, ("v 2", "--endpoint", "127.0.0.1:80"), "'v 2' is no version name"),
        (1, ("v2", "--endpoint", "127.0.0.1:80", "--endpoint", "127.0.0.1:80"), "127.0.0.1:80 stands twice"),
    ],
)
def test_a_wrong_deployment_is_refused_before_anything_is_sent(
    code: int, arguments: tuple[str, ...], expected: str
) -> None:
    result = rollout("deploy", "checkout", *arguments)
    assert result.exit_code == code
    assert expected in result.stderr
    assert "no rollout server" not in result.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stages: [10%, 5%, 100%]", "strategy.yaml: stages"),
        ("stages: [", "is no YAML"),
        ("- 1", "must be a mapping"),
        ("stagess: []", "stagess: is no setting"),
        ("\udcff", "cannot read the strategy"),
    ],
)
def test_a_wrong_strategy_is_refused_with_file_and_path(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "strategy.yaml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    result = rollout("deploy", "checkout", "v2", "--endpoint", "127.0.0.1:80", "--strategy", str(file))
    assert result.exit_code == 1
    assert expected in words(result.stderr)
    assert "strategy.yaml" in result.stderr


def test_json_is_exactly_what_the_api_says(server: Server) -> None:
    result = rollout("status", "users", "--json", server=server.url)
    assert result.exit_code == 0
    assert result.stdout == json.dumps(server.get("/v1/services/users"), indent=2) + "\n"
    for verb, path in (
        (("list",), "/v1/services"),
        (("fleet",), "/v1/fleet"),
        (("history", "users"), "/v1/services/users/rollouts"),
    ):
        assert json.loads(rollout(*verb, "--json", server=server.url).stdout) == server.get(path)


def test_a_service_without_a_rollout_is_shown_and_done(server: Server) -> None:
    for verb in ("status", "watch"):
        result = rollout(verb, "users", server=server.url)
        assert result.exit_code == 0
        assert "no rollout yet" in result.stdout
    assert "no rollouts yet" in rollout("history", "users", server=server.url).stdout
    assert "has had no rollout" in rollout("explain", "users", server=server.url).stderr
    assert "no Envoy is connected" in rollout("fleet", server=server.url).stdout


def test_a_rollout_is_deployed_paused_resumed_aborted_and_explained(server: Server, tmp_path: Path) -> None:
    strategy = tmp_path / "quick.yaml"
    strategy.write_text(QUICK + "stages: [5%, 100%]\n")

    def call(*arguments: str) -> Result:
        return rollout(*arguments, server=server.url)

    deployed = call("deploy", "checkout", "v2", "--endpoint", "127.0.0.1:7003@eu/eu-1", "--strategy", str(strategy))
    assert deployed.exit_code == 0
    assert "checkout initial → v2: pending" in deployed.stdout
    assert server.get("/v1/services/checkout")["rollout"]["stages"] == [5.0, 100.0]
    assert call("status", "checkout").exit_code == 4
    assert call("status").exit_code == 4
    again = call("deploy", "checkout", "v3", "--endpoint", "127.0.0.1:7004")
    assert (again.exit_code, "in progress" in again.stderr) == (1, True)
    assert "cannot fully promote" in call("promote", "checkout", "--full").stderr
    assert "paused by ann" in call("pause", "checkout").stdout
    assert "resumed by ann" in call("resume", "checkout").stdout
    aborted = json.loads(call("abort", "checkout", "--json").stdout)
    assert aborted["reason"] == "aborted by ann"
    watched = call("watch", "checkout")
    assert watched.exit_code == 3
    assert "rolled back" in watched.stdout.splitlines()[-1]
    assert call("status", "checkout").exit_code == 3
    assert call("status").exit_code in (0, 4)
    assert "aborted by ann" in call("history", "checkout").stdout
    story = words(call("explain", "checkout", "--rollout", "1").stdout)
    assert "rollout 1 of checkout: initial → v2, rolled back" in story
    assert "aborted by ann" in story
    file = tmp_path / "checkout-1.json"
    replayed = call("replay", "checkout", "--save", str(file))
    assert (replayed.exit_code, replayed.stdout.endswith(" decisions: the same\n")) == (0, True)
    assert rollout("replay", str(file)).stdout == call("replay", "checkout/1").stdout == replayed.stdout
    assert "no rollout 7" in call("replay", "checkout/7").stderr
    missing = call("explain", "checkout", "--rollout", "7")
    assert (missing.exit_code, "no rollout 7" in missing.stderr) == (1, True)


def test_deploy_with_wait_ends_with_3_when_the_rollout_is_taken_back(server: Server, tmp_path: Path) -> None:
    strategy = tmp_path / "quick.yaml"
    strategy.write_text(QUICK)
    arguments = (
        "deploy",
        "cart",
        "v2",
        "--endpoint",
        "127.0.0.1:7003",
        "--strategy",
        str(strategy),
        "--wait",
        "--json",
    )
    with python(*arguments, ROLLOUT_SERVER=server.url) as process, ended_by(process):
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert rollout("abort", "cart", server=server.url).exit_code == 0
        rest = [json.loads(line) for line in process.stdout]
    assert process.returncode == 3
    assert first["rollout"]["candidate"] == "v2"
    assert rest[-1]["rollout"]["outcome"] == "rolled_back"


def test_ctrl_c_leaves_and_says_that_the_rollout_goes_on(server: Server) -> None:
    assert rollout("deploy", "shop", "v2", "--endpoint", "127.0.0.1:7003", server=server.url).exit_code == 0
    with python("watch", "shop", ROLLOUT_SERVER=server.url) as process, ended_by(process):
        assert process.stdout is not None
        assert "shop initial → v2" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr == "left; the rollout goes on: `rollout watch shop` shows it, `rollout abort shop` takes it back\n"
    assert rollout("status", "shop", server=server.url).exit_code == 4


def test_a_backend_is_let_go_but_not_the_last_one(server: Server) -> None:
    first = rollout("drain", "search", "127.0.0.1:7001", server=server.url)
    assert first.exit_code == 0
    assert "127.0.0.1:7001 of initial: waiting until every Envoy knows of the drain; do not stop yet" in first.stdout
    last = rollout("drain", "search", "127.0.0.1:7002", server=server.url)
    assert last.exit_code == 1
    assert "last healthy backend" in last.stderr
    assert rollout("drain", "search", "nonsense", server=server.url).exit_code == 2


def test_the_first_version_is_named(server: Server) -> None:
    result = rollout("adopt", "stock", "v7", server=server.url)
    assert result.exit_code == 0
    assert "v7 (stable)" in result.stdout


def test_a_bad_configuration_is_refused_with_every_problem_and_a_good_one_taken(server: Server) -> None:
    bad = server.configs / "bad.yaml"
    bad.write_text("clusters:\n- name: a\n  typo: 1\n- name: b\n  typo: 2\n")
    refused = rollout("config", "reload", server=server.url)
    bad.unlink()
    assert refused.exit_code == 1
    assert len([line for line in refused.stderr.splitlines() if line.startswith("error: ") and "bad.yaml" in line]) == 2
    taken = rollout("config", "reload", server=server.url)
    assert (taken.exit_code, taken.stdout) == (0, "reloaded\n")


def test_watch_tells_each_phase_and_stage_once_and_exits_with_0_when_completed() -> None:
    looks = [view("warming"), view("shifting"), view("shifting", phase_seconds=2.0), view("completed", stage=1)]
    with scripted(Script({CHECKOUT: looks})) as url:
        result = rollout("watch", "checkout", server=url)
    assert result.exit_code == 0
    assert [line.split(": ")[1].split(" ")[0] for line in result.stdout.splitlines()] == [
        "warming",
        "shifting",
        "completed",
    ]


def test_watch_with_json_prints_a_line_at_each_change() -> None:
    looks = [
        view("shifting"),
        view("shifting", phase_seconds=2.0),
        view("shifting", weight_percent=60.0),
        view("rolled_back"),
    ]
    with scripted(Script({CHECKOUT: looks})) as url:
        result = rollout("watch", "checkout", "--json", server=url)
    assert result.exit_code == 3
    assert [json.loads(line) for line in result.stdout.splitlines()] == [looks[0], looks[2], looks[3]]


def test_watch_on_a_terminal_shows_the_panel() -> None:
    with scripted(Script({CHECKOUT: [view("shifting"), view("completed", stage=1)]})) as url:
        result = rollout("watch", "checkout", server=url, TTY_COMPATIBLE="1", COLUMNS="80", NO_COLOR="1")
    assert result.exit_code == 0
    assert "▶ [50%]" in result.stdout.replace("\u00a0", " ")
    assert "COMPLETED" in result.stdout


def test_watch_waits_for_a_server_that_starts_anew() -> None:
    with scripted(Script({CHECKOUT: [view("shifting"), None, None, view("completed")]})) as url:
        result = rollout("watch", "checkout", server=url)
    assert result.exit_code == 0
    assert result.stderr.count("trying again: no rollout server answers") == 1


def test_waiting_through_a_pause_says_so_once_on_stderr() -> None:
    looks = [view("shifting"), view("paused"), view("paused"), view("shifting", stage=1), view("completed", stage=1)]
    with scripted(Script({CHECKOUT: looks, f"{CHECKOUT}/rollouts": [looks[0]["rollout"]]})) as url:
        result = rollout("deploy", "checkout", "v2", "--endpoint", "127.0.0.1:7003", "--wait", server=url)
    assert result.exit_code == 0
    assert result.stderr == "paused, and still waiting: `rollout resume`, `promote` or `abort` goes on\n"
    assert "paused at 50 % (why paused)" in result.stdout


def test_waiting_ends_with_the_own_rollout_when_another_one_has_begun() -> None:
    ended = view("rolled_back")["rollout"]
    answers = {CHECKOUT: [view("shifting"), view("warming", id=2)], f"{CHECKOUT}/rollouts/1": [ended]}
    with scripted(Script({**answers, f"{CHECKOUT}/rollouts": [view("shifting")["rollout"]]})) as url:
        result = rollout("deploy", "checkout", "v2", "--endpoint", "127.0.0.1:7003", "--wait", server=url)
    assert result.exit_code == 3


def test_drain_with_wait_ends_when_the_backend_is_safe_to_stop() -> None:
    backend = {
        "version": "v1",
        "backend": "127.0.0.1:7001",
        "running": 2,
        "idle_looks": 0,
        "timed_out": False,
        "cut": {},
    }
    looks = [view("completed") | {"drains": [{**backend, "removed": removed}]} for removed in (False, True)]
    with scripted(Script({CHECKOUT: looks, f"{CHECKOUT}/drains": [looks[0]]})) as url:
        result = rollout("drain", "checkout", "127.0.0.1:7001", "--wait", server=url)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "127.0.0.1:7001 of v1: 2 requests running, idle 0 of 3 looks in a row; do not stop yet",
        "127.0.0.1:7001 of v1: safe to stop",
    ]


def test_token_user_and_content_type_go_along_with_what_is_asked() -> None:
    script = Script({"/v1/services/a%2Fb/adopt": [view("completed")]})
    with scripted(script) as url:
        assert rollout("adopt", "a/b", "v1", server=url, ROLLOUT_TOKEN="secret\n").exit_code == 0  # noqa: S106
        assert rollout("adopt", "a/b", "v1", server=url, ROLLOUT_TOKEN="se\ncret").exit_code == 1  # noqa: S106
    [(method, _, headers, body)] = script.asked
    assert (method, body) == ("POST", {"version": "v1"})
    assert headers["Authorization"] == "Bearer secret"
    assert headers["X-Rollout-User"] == "ann"
    assert headers["Content-Type"] == "application/json"


def test_lint_names_every_problem_in_a_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("clusters:\n- name: a\n  typo: 1\n- name: b\n  typo: 2\n")
    result = rollout("lint", str(tmp_path))
    assert result.exit_code == 1
    assert len((result.stdout + result.stderr).splitlines()) == 2
    problems = json.loads(rollout("lint", str(tmp_path), "--json").stdout)["error"]["problems"]
    assert all("a.yaml" in problem["where"] for problem in problems)


def test_lint_warns_of_what_cannot_be_shifted_and_is_content(tmp_path: Path) -> None:
    route = "    - match: { prefix: / }\n      route: { cluster_header: x-cluster }\n"
    (tmp_path / "a.yaml").write_text(configuration(["checkout"], route))
    result = rollout("lint", str(tmp_path))
    assert result.exit_code == 0
    warning, fine = result.stdout.splitlines()
    assert warning.startswith("warning: ")
    assert "cluster_header" in warning
    assert fine.startswith(f"{tmp_path} is fine; services: checkout. The endpoints of a service here are its first")


def test_bootstrap_is_yaml_without_anchors_and_the_same_as_json() -> None:
    arguments = ("bootstrap", "--node-id", "edge-1", "--location", "eu/eu-1", "--stats", "127.0.0.1:9902", "--delta")
    text = rollout(*arguments).stdout
    document = yaml.safe_load(text)
    assert document == json.loads(rollout(*arguments, "--json").stdout)
    assert document["node"]["locality"] == {"region": "eu", "zone": "eu-1"}
    assert document["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
    assert re.search(r"[&*]id\d", text) is None
    assert "{" not in text.replace("{}", "")
    wrong = rollout("bootstrap", "--node-id", "edge-1", "--location", "eu", "--xds", "nowhere")
    assert (wrong.exit_code, wrong.stderr) == (1, "error: 'nowhere' is no address; write HOST:PORT\n")


def test_a_server_that_cannot_start_says_why_without_a_traceback(server: Server, tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    configs = ("--configs", str(server.configs))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases = {
            ("--configs", str(tmp_path / "none")): "does not exist",
            (*configs, "--admin", "0.0.0.0:0"): "is not loopback, so changes need a token",
            (*configs, "--admin", f"127.0.0.1:{port}"): "is another server running?",
            (*configs, "--admin", "127.0.0.1:0", "--xds", server.xds): "cannot listen for xDS on",
        }
        for arguments, expected in cases.items():
            code, stdout, stderr = finished("serve", *data, *arguments)
            assert (code, stdout) == (1, ""), stderr
            assert expected in stderr
            assert stderr.splitlines()[-1].startswith("error: ")
            assert "Traceback" not in stderr
