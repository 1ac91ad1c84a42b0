"""The command line as tests call it: verbs, a server in a process of its own, and one that answers by a script."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from typer.testing import CliRunner, Result

from rollout.cli import app

ROOT = Path(__file__).parents[2]
LIMIT_S = 90.0
NOBODY = "http://127.0.0.1:9"  # the discard port, on which nothing listens
QUICK = "drain_timeout: 100ms\n"
SERVICES = ("cart", "checkout", "search", "shop", "stock", "users")

ROUTE = """
routes:
- name: edge
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
"""
SERVICE = """
- name: {name}
  type: EDS
  connect_timeout: 1s
  eds_cluster_config: {{ eds_config: {{ ads: {{}}, resource_api_version: V3 }} }}
"""
ENDPOINTS = """
- cluster_name: {name}
  endpoints:
  - lb_endpoints:
    - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 7001 }} }} }}
    - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 7002 }} }} }}
"""


def configuration(services: Sequence[str], extra_route: str = "") -> str:
    routes = [f"    - match: {{ prefix: /{name} }}\n      route: {{ cluster: {name} }}\n" for name in services]
    clusters = "clusters:" + "".join(SERVICE.format(name=name) for name in services)
    endpoints = "endpoints:" + "".join(ENDPOINTS.format(name=name) for name in services)
    return ROUTE + "".join(routes) + extra_route + clusters + endpoints


@dataclass(frozen=True)
class Server:
    """A rollout server in a process of its own."""

    url: str
    xds: str
    configs: Path

    def get(self, path: str) -> Any:
        with urlopen(self.url + path, timeout=LIMIT_S) as response:  # noqa: S310 - http on loopback
            return json.loads(response.read())


def python(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Start `rollout` as a process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROLLOUT_")}
    return subprocess.Popen(
        [sys.executable, "-m", "rollout.cli", *arguments],
        cwd=ROOT,
        env={**clean, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def ended_by(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Kill a process that takes too long, so that every wait for its output has an end."""
    watchdog = threading.Timer(LIMIT_S, process.kill)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        watchdog.join()


def finished(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run `rollout` to its end; return its exit code, stdout and stderr."""
    with python(*arguments, **environment) as process, ended_by(process):
        stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


@contextmanager
def serving(folder: Path, text: str) -> Iterator[Server]:
    """Run a server on this configuration until the end of the block; it must end well."""
    configs = folder / "envoy-configs"
    configs.mkdir()
    (configs / "all.yaml").write_text(text)
    places = ("--configs", str(configs), "--data", str(folder / "data"))
    with python("serve", *places, "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0") as process:
        assert process.stderr is not None
        with ended_by(process):
            ready = next((line for line in process.stderr if "admin API on" in line), "")
        found = re.search(r"xDS on (\S+), admin API on (http://[\d.:]+)", ready)
        assert found is not None, "the server did not become ready"
        yield Server(found[2], found[1], configs)
        process.terminate()
        with ended_by(process):
            process.communicate()
    assert process.returncode == 0


def rollout(*arguments: str, server: str = NOBODY, **environment: str) -> Result:
    """Call a verb."""
    clean: dict[str, str | None] = {"ROLLOUT_TOKEN": None, "ROLLOUT_SERVER": server, "USER": "ann"}
    return CliRunner().invoke(app, arguments, env={**clean, **environment})


def words(text: str) -> str:
    return " ".join(text.split())


# A scripted server, for what a real one shows only with a fleet.


@dataclass
class Script:
    """Answers by path, each once, the last again and again; None closes the connection. Notes what it was asked."""

    answers: Mapping[str, Sequence[Any]]
    status: int = 200
    asked: list[tuple[str, str, Mapping[str, str], Any]] = field(default_factory=list)
    _turns: dict[str, int] = field(default_factory=dict)

    def next(self, path: str) -> Any:
        answers = self.answers[path]
        turn = self._turns.get(path, 0)
        self._turns[path] = turn + 1
        return answers[min(turn, len(answers) - 1)]


@contextmanager
def scripted(script: Script) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.asked.append((self.command, self.path, dict(self.headers), json.loads(body) if body else None))
            answer = script.next(self.path.partition("?")[0])
            if answer is None:
                return
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(script.status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()


def view(phase: str, **changes: Any) -> dict[str, Any]:
    """A service with a rollout, as the API gives it."""
    over = phase in ("completed", "rolled_back")
    state = {
        "service": "checkout",
        "id": 1,
        "stable": "v1",
        "candidate": "v2",
        "phase": phase,
        "outcome": phase if over else "in_progress",
        "reason": f"why {phase}",
        "started_at": "2026-11-22T05:10:41+00:00",
        "changed_at": "2026-11-22T05:10:51+00:00",
        "in_progress": not over,
        "phase_seconds": 1.0,
        "stage": 0,
        "stages": [50.0, 100.0],
        "track": [{"kind": "weight", "weight_percent": each, "approve": False} for each in (50.0, 100.0)],
        "keep_stable_seconds": 0.0,
        "stages_note": None,
        "weight_percent": 50.0,
        "measured": None,
        "verdict": None,
        "waiting_for": {},
        "resume": "shifting" if phase == "paused" else None,
        "awaiting": "operator" if phase == "paused" else None,
        "waiting": "",
        "point_of_no_return": "",
        "drain": None,
    }
    versions = [{"version": "v1", "weight_percent": 50.0, "backends": ["127.0.0.1:7001"]}]
    state |= changes
    service = {"service": "checkout", "stable": "v1", "versions": versions, "drains": [], "rollout": state}
    return {**service, "in_progress": state["in_progress"]}
