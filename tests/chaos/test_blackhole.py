"""The line to the control plane swallows everything, and nobody is told: an abort is done as soon as it heals."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALONE = ("unshare", "--user", "--map-root-user", "--net")
PROBE = ("sh", "-c", "ip link set lo up && iptables -A INPUT -p tcp --dport 1 -j DROP")

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif("CHAOS" not in os.environ, reason="half a minute: CHAOS=1 runs it, and `make chaos`"),
]


def why_not() -> str | None:
    """Return what is missing for a network namespace of one's own, None for nothing."""
    absent = [name for name in ("unshare", "ip", "iptables") if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    tried = subprocess.run((*ALONE, *PROBE), check=False, capture_output=True, text=True, timeout=20)
    return tried.stderr.strip() or "not permitted" if tried.returncode else None


def test_an_abort_while_the_line_is_a_black_hole_is_done_when_it_heals(tmp_path: Path) -> None:
    missing = why_not()
    if missing is not None:
        pytest.skip(f"no network namespace of one's own here: {missing}")
    command = (*ALONE, sys.executable, "-m", "tests.chaos.blackhole", str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["answered_s"] < 5
    assert seen["during"] == [50.0, 50.0], "the line was no black hole"
    assert seen["back_s"] < 30
    assert seen["reason"] == "aborted by demo"
    assert seen["dropped"] == 0
    assert seen["requests"] > 1000
