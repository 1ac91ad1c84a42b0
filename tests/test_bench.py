"""The programs of bench/ run; what they measure is no business of a test."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from bench import plot

ROOT = Path(__file__).parents[1]
COUNTS = {"proxies": 3, "pushes": 2, "lost": 0, "floor_lost": 0, "reconnects": 0, "floor_reconnects": 0}
COSTS = ("bring_up_us", "push_us", "first_ack_ms", "median_ack_ms", "p99_ack_ms", "last_ack_ms")


@pytest.fixture(scope="module")
def printed() -> str:
    command = (sys.executable, "bench/fanout.py", "--proxies", "3", "--sizes", "4x2", "--pushes", "2", "--json")
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout


def test_fanout_prints_a_row_for_each_protocol_and_change_and_loses_nothing(printed: str) -> None:
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [(row["protocol"], row["change"]) for row in rows] == [*product(("sotw", "delta"), ("weights", "endpoint"))]
    for row in rows:
        assert {name: row[name] for name in COUNTS} == COUNTS
        assert {"memory_kb", "floor_memory_kb"} <= row.keys()
        assert all(row[name] >= 0 and row[f"floor_{name}"] >= 0 for name in COSTS)
        assert row["push_ratio_to_floor"] == pytest.approx(row["push_us"] / row["floor_push_us"], rel=0.01)


def test_plot_fills_the_table_between_its_marks(printed: str) -> None:
    rows = [{**json.loads(line), "size": "10x10"} for line in printed.splitlines()]
    page = plot.filled((ROOT / "docs" / "performance.md").read_text(), plot.table(rows))
    assert page.count("| 10x10 | sotw | 3 | weights |") == 1
    assert plot.filled(page, plot.table(rows)) == page
    assert plot.picture(rows).count("<polyline") == 2 * 4
