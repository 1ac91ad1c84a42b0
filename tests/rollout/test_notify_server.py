"""Notifications of a whole server: asked for by the command line, told after kill -9, and their secrets in nothing."""

import contextlib
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import pytest

from rollout.client import connect
from rollout.errors import Unavailable
from tests.rollout.commandline import LIMIT_S, configuration, python, rollout
from tests.rollout.told import Receiver, receiving

SECRETS = ("S3CRETPASS", "s3cretpath", "s3cretquery")
FILE = """
targets: { team: { url_env: TEAM_URL } }
rules: [ { tell: [team], events: [operation], severity: info } ]
"""


@dataclass
class Process:
    """A server, and all that it has logged."""

    process: "subprocess.Popen[str]"
    url: str = ""
    log: list[str] = field(default_factory=list)

    def read(self, ready: threading.Event) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"admin API on (http://[\d.:]+)", line):
                self.url = found[1]
                ready.set()


@contextlib.contextmanager
def serving(folder: Path, receiver: Receiver) -> Iterator[Process]:
    places = ("--configs", str(folder / "configs"), "--data", str(folder / "data"), "--notify", str(folder / "n.yaml"))
    secret = f"json://ann:{SECRETS[0]}@127.0.0.1:{receiver.port}/{SECRETS[1]}?-key={SECRETS[2]}"
    with python("serve", *places, "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", TEAM_URL=secret) as process:
        server, ready = Process(process), threading.Event()
        reader = threading.Thread(target=server.read, args=(ready,))
        reader.start()
        try:
            assert ready.wait(LIMIT_S), server.log
            yield server
        finally:
            process.kill()
            process.wait(LIMIT_S)
            reader.join(LIMIT_S)


def test_what_happened_before_a_kill_is_told_after_it(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "all.yaml").write_text(configuration(["checkout"]))
    (tmp_path / "n.yaml").write_text(FILE)
    outputs: list[str] = []
    with receiving() as receiver:
        receiver.status = 503
        with serving(tmp_path, receiver) as server:
            outputs.append(rollout("drain", "checkout", "127.0.0.1:7001", server=server.url).output)
            wait_for(receiver, 2)  # the first refusal is heard
            answer = rollout("notify", "list", "--json", server=server.url)
            outputs += [answer.output, str(urlopen(f"{server.url}/metrics", timeout=LIMIT_S).read())]  # noqa: S310
            (target,) = json.loads(answer.stdout)["targets"]
            assert (target["delivered"], target["waiting"] > 0, "503" in target["fault"]) == (0, True, True)
            assert 'rollout_notifications_failing{target="team"} 1.0' in outputs[-1]
            tried = rollout("notify", "test", "team", server=server.url)
            outputs.append(tried.output)
            assert tried.exit_code == 1
            server.process.send_signal(signal.SIGKILL)
        outputs += server.log
        receiver.got, receiver.status = [], 200
        with serving(tmp_path, receiver) as server:
            wait_for(receiver, 1)
            assert "asked for drain" in receiver.bodies()[0]
            tried = rollout("notify", "test", server=server.url)
            assert (tried.exit_code, tried.stdout) == (0, "team has taken it\n")
            listed = rollout("notify", "list", server=server.url)
            assert "team" in listed.stdout
            assert re.search(r" \d\d:\d\d:\d\d ", listed.stdout), listed.stdout
            unknown = rollout("notify", "test", "nobody", server=server.url)
            assert (unknown.exit_code, "there are team" in unknown.stderr) == (1, True)
            outputs += [tried.output, listed.output, unknown.output]
        outputs += server.log
    said = "".join(outputs)
    assert "[redacted]" in said
    assert not [secret for secret in SECRETS if secret in said]


def test_a_target_that_never_comes_to_an_end_does_not_hold_up_the_servers(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "all.yaml").write_text(configuration(["checkout"]))
    (tmp_path / "n.yaml").write_text(FILE)
    with receiving() as receiver:
        receiver.drips = True
        with serving(tmp_path, receiver) as server:
            assert rollout("drain", "checkout", "127.0.0.1:7001", server=server.url).exit_code == 0
            wait_for(receiver, 1)
            server.process.send_signal(signal.SIGTERM)
            began_s = time.monotonic()
            assert server.process.wait(LIMIT_S) == 0
            assert time.monotonic() - began_s < 20


def wait_for(receiver: Receiver, count: int) -> None:
    limit = threading.Event()
    for _ in range(int(LIMIT_S * 100)):
        if len(receiver.got) >= count:
            return
        limit.wait(0.01)
    raise AssertionError(f"nobody was told {count} times: {receiver.got}")


async def test_an_answer_is_waited_for_as_long_as_what_is_asked_may_take() -> None:
    """A test of a target that hangs, or documents of a thousand services, take longer than all else."""
    with receiving() as receiver:
        receiver.free.clear()
        async with connect(f"http://127.0.0.1:{receiver.port}", token=None, user="") as client:
            client.limit_s = 0.1
            with pytest.raises(Unavailable, match=r"did not answer within 0\.1 s"):
                await client.post("/v1/notify/test", {})
        receiver.free.set()
