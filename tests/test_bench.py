"""The programs of bench/ run; what they measure is no business of a test."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from bench import gates, plot

ROOT = Path(__file__).parents[1]
COUNTS = {"proxies": 3, "pushes": 2, "lost": 0, "floor_lost": 0, "reconnects": 0, "floor_reconnects": 0}
COSTS = ("bring_up_us", "push_us", "first_ack_ms", "median_ack_ms", "p99_ack_ms", "last_ack_ms")


@pytest.fixture(scope="module")
def printed() -> str:
    command = (sys.executable, "bench/fanout.py", "--proxies", "3", "--sizes", "4x2", "--pushes", "2", "--json")
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=180).stdout


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


def test_gates_leads_the_same_rollouts_by_each_rule_and_fills_tables_and_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    printed, page, plot_file = tmp_path / "rows.jsonl", tmp_path / "gates.md", tmp_path / "gates.svg"
    measuring = ("--runs", "2", "--scenario", "healthy, 0.1 % errors", "--scenario", "0.1 % -> 50 %", "--json")
    command = (sys.executable, "bench/gates.py")
    done = subprocess.run((*command, *measuring), cwd=ROOT, check=True, capture_output=True, text=True, timeout=180)
    printed.write_text(done.stdout)
    rows = [gates.Row(**json.loads(line)) for line in done.stdout.splitlines()]
    assert [(row.scenario, row.decider) for row in rows[:2]] == list(
        product(("healthy, 0.1 % errors",), gates.NAMES[:2])
    )
    assert len(rows) == 2 * len(gates.NAMES)
    for row in rows:
        assert row.promoted + row.rolled_back + row.undecided == pytest.approx(1)
        assert row.decider != gates.OURS or row.rolled_back == (0 if row.healthy else 1)
    page.write_text((ROOT / "docs" / "gates.md").read_text())
    writing = ("--rows", str(printed), "--page", str(page), "--plot", str(plot_file))
    subprocess.run((*command, *writing), cwd=ROOT, check=True, capture_output=True, timeout=180)
    assert page.read_text().count(f"| 0.1 % -> 50 % | {gates.cell(rows[len(gates.NAMES)])} |") == 2
    assert "0.1 % -&gt; 50 %" in plot_file.read_text()
