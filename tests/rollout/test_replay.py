"""A recording gives the same decisions again, and says where it does not."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rollout.cli import app
from rollout.errors import InvalidSpec
from rollout.gate import Look, Past, Quantile, Stratum, Tally
from rollout.machine import advance, wanted, weight_bp
from rollout.record import JournalEntry, Rollout
from rollout.replay import Recording, dump_recording, load_recording, recording, replay
from rollout.spec import Strategy, parse_strategy
from rollout.state import ENDED, Command, Phase, Seen, Split, State, start

ROOT = Path(__file__).parents[2]
BEGAN = datetime(2030, 1, 1, tzinfo=UTC)
FULL_BP = 10_000
SLOW = dict.fromkeys(Quantile, 0)
PAST = Past(rate_rps=1000.0, slow_ms=dict.fromkeys(Quantile, 50.0))
QUICK = parse_strategy("stages: [5%, {weight: 50%, hold: 1s}, 100%]\ndrain_timeout: 1s\ngate: {warmup: 2s}\n")


def tally(random: Random, requests: int, errors: float) -> Tally:
    bad = sum(random.random() < errors for _ in range(requests))
    return Tally(requests=requests, errors=bad, timed=requests, slow=SLOW, late=SLOW, started=requests)


def look(random: Random, at_s: float, weight: int, errors: float) -> Look:
    mine = 1000 * weight // FULL_BP
    stratum = Stratum(weight, tally(random, 1000 - mine, 0.001), tally(random, mine, errors))
    return Look(at_s, (stratum,), PAST, names=("v1", "v2"))


def journal(
    strategy: Strategy, errors: float = 0.001, commands: Iterable[tuple[int, Command]] = ()
) -> Iterator[JournalEntry]:
    """Yield the steps of a rollout whose Envoys obey at once and report each second."""
    random, asked = Random(1), dict(commands)
    state, served = start(0.0, "deployed by ann"), None
    yield JournalEntry(1, BEGAN, state, None)
    revision = 1
    for tick in range(1, 3000):
        now_s = tick / 10
        seen = seen_at(random, strategy, state, served, now_s, errors)
        seen = replace(seen, command=asked.get(tick), by="ann" if tick in asked else "")
        following, _ = advance(strategy, state, seen)
        if following != state:
            revision += 1
            yield JournalEntry(revision, BEGAN + timedelta(seconds=now_s), following, seen)
        state, served = following, wanted(strategy, following)
        if state.phase in ENDED:
            return


def seen_at(
    random: Random, strategy: Strategy, state: State, served: Split | None, now_s: float, errors: float
) -> Seen:
    looks = Phase.SHIFTING in (state.phase, state.resume) and now_s == int(now_s)
    taken = look(random, now_s, weight_bp(strategy, state), errors) if looks else None
    return Seen(
        now_s=now_s,
        connected=1,
        fleet=1,
        served=served,
        unready=(),
        looked_s=now_s if looks else -1.0,
        look=taken,
        past=PAST,
    )


def recorded(strategy: Strategy, entries: Iterable[JournalEntry]) -> Recording:
    known = tuple(entries)
    at = known[0].at
    rollout = Rollout("checkout", 3, "v1", "v2", strategy, known[-1].state, len(known), at, known[-1].at)
    return recording(rollout, known)


@pytest.mark.parametrize(
    ("errors", "commands", "end", "decisions"),
    [
        pytest.param(0.001, [], Phase.COMPLETED, 8, id="healthy"),
        pytest.param(0.2, [], Phase.ROLLED_BACK, 6, id="worse"),
        pytest.param(0.001, [(40, Command.PAUSE), (200, Command.RESUME)], Phase.COMPLETED, 10, id="paused"),
        pytest.param(0.001, [(40, Command.PROMOTE), (60, Command.PROMOTE_FULL)], Phase.COMPLETED, 8, id="promoted"),
        pytest.param(0.001, [(50, Command.ABORT)], Phase.ROLLED_BACK, 6, id="aborted"),
    ],
)
def test_a_recording_gives_the_same_decisions_again(
    errors: float, commands: list[tuple[int, Command]], end: Phase, decisions: int
) -> None:
    given = recorded(QUICK, journal(QUICK, errors, commands))
    assert given.entries[-1].state.phase is end
    loaded = load_recording(dump_recording(given))
    again = replay(loaded.strategy, loaded.entries)
    assert again.difference is None
    assert again.looks == sum(entry.because is not None and entry.because.look is not None for entry in given.entries)
    assert again.decisions == decisions


def test_a_recording_leaves_out_the_evidence_and_keeps_all_else() -> None:
    given = recorded(QUICK, journal(QUICK))
    text = dump_recording(given)
    assert b'"evidence"' not in text
    assert json.loads(text)["format"] == 1
    loaded = load_recording(text)
    assert [entry.because for entry in loaded.entries] == [entry.because for entry in given.entries]
    assert loaded.strategy == given.strategy
    assert dump_recording(loaded) == text


def test_a_recording_of_the_same_judge_on_other_counts_differs_where_it_was_changed() -> None:
    given = recorded(QUICK, journal(QUICK))
    changed = next(number for number, entry in enumerate(given.entries) if entry.because and entry.because.look)
    entry = given.entries[changed]
    assert entry.because is not None
    assert entry.because.look is not None
    worse = replace(entry.because, look=look(Random(2), entry.because.now_s, 500, 0.9))
    entries = (*given.entries[:changed], replace(entry, because=worse), *given.entries[changed + 1 :])
    difference = replay(QUICK, entries).difference
    assert difference is not None
    assert difference.entry.revision == entry.revision
    assert difference.what.startswith("the verdict's candidate_error")
    assert difference.recorded != difference.replayed


def with_numbers(numbers: Mapping[str, Any], given: Recording) -> Recording:
    """Put these among the figures of each verdict, as they stand in a file; None takes one away."""
    document = json.loads(dump_recording(given))
    for entry in document["entries"]:
        if entry["state"]["verdict"]:
            figures = entry["state"]["verdict"]["numbers"] | numbers
            entry["state"]["verdict"]["numbers"] = {name: each for name, each in figures.items() if each is not None}
    return load_recording(json.dumps(document).encode())


def test_a_figure_that_the_judge_gives_since_then_is_no_difference() -> None:
    older = with_numbers({"ln_e": None}, recorded(QUICK, journal(QUICK)))
    assert replay(older.strategy, older.entries).difference is None


@pytest.mark.parametrize("written", [{"ln_of_old": 1.5}, {"ln_e": "much"}])
def test_a_figure_that_is_gone_or_is_none_is_a_difference(written: Mapping[str, Any]) -> None:
    older = with_numbers(written, recorded(QUICK, journal(QUICK)))
    difference = replay(older.strategy, older.entries).difference
    assert difference is not None
    assert (difference.what, difference.recorded) == (f"the verdict's {next(iter(written))}", str(*written.values()))


def test_another_strategy_is_told_by_the_first_decision_that_it_takes() -> None:
    given = recorded(QUICK, journal(QUICK))
    other = parse_strategy("stages: [1%, 100%]\ndrain_timeout: 1s\ngate: {warmup: 2s}\n")
    difference = replay(other, given.entries).difference
    assert difference is not None
    assert (difference.what, difference.recorded, difference.replayed) == ("weight", "5 %", "1 %")


def test_a_command_that_is_refused_in_the_replay_is_a_difference() -> None:
    given = recorded(QUICK, journal(QUICK))
    last = given.entries[-1]
    assert last.because is not None
    wrong = replace(last, because=replace(last.because, command=Command.RESUME))
    difference = replay(QUICK, (*given.entries, wrong)).difference
    assert difference is not None
    assert (difference.what, difference.recorded) == ("command", "resume was obeyed")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"entries": []}, "without its beginning"),
        ({"strategy": {"stages": ["5%"]}}, "strategy"),
    ],
)
def test_what_is_no_recording_is_refused(change: dict[str, object], expected: str) -> None:
    document = json.loads(dump_recording(recorded(QUICK, journal(QUICK)))) | change
    with pytest.raises(InvalidSpec, match=expected):
        load_recording(json.dumps(document).encode())
    with pytest.raises(InvalidSpec, match="is no recording"):
        load_recording(b"{")


def test_a_step_of_which_nothing_was_seen_is_refused() -> None:
    document = json.loads(dump_recording(recorded(QUICK, journal(QUICK))))
    document["entries"][1]["because"] = None
    with pytest.raises(InvalidSpec, match=r"step 2 of .* without what was seen"):
        load_recording(json.dumps(document).encode())


RECORDINGS = ROOT / "tests" / "replay"


@pytest.mark.parametrize(
    ("name", "end"),
    [("completed", Phase.COMPLETED), ("rolled_back", Phase.ROLLED_BACK), ("aborted", Phase.ROLLED_BACK)],
)
def test_recordings_of_real_envoys_are_decided_as_they_were(name: str, end: Phase) -> None:
    """If another decision is meant, record them anew: tests/replay/record.py."""
    given = load_recording((RECORDINGS / f"{name}.json").read_bytes())
    again = replay(given.strategy, given.entries)
    assert again.difference is None
    assert again.looks > 0
    assert given.entries[-1].state.phase is end


def test_the_recording_in_waves_is_decided_as_it_was() -> None:
    """If another decision is meant, record it anew: tests/replay/record_waves.py."""
    given = load_recording((RECORDINGS / "waves.json").read_bytes())
    again = replay(given.strategy, given.entries)
    assert (again.difference, given.entries[-1].state.phase) == (None, Phase.COMPLETED)
    lanes = [entry.state.lanes["us/us-1"].phase for entry in given.entries if "us/us-1" in entry.state.lanes]
    assert {Phase.SHIFTING, Phase.ROLLING_BACK, Phase.ROLLED_BACK} <= set(lanes)


def test_a_location_that_comes_out_otherwise_is_told() -> None:
    given = load_recording((RECORDINGS / "waves.json").read_bytes())
    number = next(number for number, entry in enumerate(given.entries) if "us/us-1" in entry.state.lanes)
    entry = given.entries[number]
    lane = replace(entry.state.lanes["us/us-1"], reason="because")
    changed = replace(entry, state=replace(entry.state, lanes={**entry.state.lanes, "us/us-1": lane}))
    found = replay(given.strategy, (*given.entries[:number], changed)).difference
    assert found is not None
    assert (found.what, found.recorded) == ("reason of us/us-1", "because")


def test_the_recording_that_completed_was_paused_and_resumed() -> None:
    given = load_recording((RECORDINGS / "completed.json").read_bytes())
    assert {entry.because.command for entry in given.entries if entry.because} >= {Command.PAUSE, Command.RESUME}


def command(*arguments: str, server: str = "http://127.0.0.1:9") -> Result:
    return CliRunner().invoke(app, ["replay", *arguments], env={"ROLLOUT_SERVER": server})


def test_a_saved_recording_needs_no_server(tmp_path: Path) -> None:
    file = tmp_path / "checkout-3.json"
    file.write_bytes(dump_recording(recorded(QUICK, journal(QUICK))))
    result = command(str(file))
    assert (result.exit_code, result.stdout) == (0, "checkout/3 v1 → v2: 18 looks, 8 decisions: the same\n")
    answer = json.loads(command(str(file), "--json").stdout)
    assert (answer["same"], answer["looks"], answer["decisions"], answer["difference"]) == (True, 18, 8, None)


def test_a_file_can_be_saved_under_another_name(tmp_path: Path) -> None:
    file, copy = tmp_path / "checkout-3.json", tmp_path / "copy.json"
    file.write_bytes(dump_recording(recorded(QUICK, journal(QUICK))))
    assert command(str(file), "--save", str(copy)).exit_code == 0
    assert copy.read_bytes() == file.read_bytes()


def test_the_first_difference_is_told_and_the_exit_code_is_1(tmp_path: Path) -> None:
    given = recorded(QUICK, journal(QUICK))
    number = next(number for number, entry in enumerate(given.entries) if entry.state.stage == 1)
    entry = given.entries[number]
    changed = replace(entry, state=replace(entry.state, reason="a whim"))
    file = tmp_path / "checkout-3.json"
    entries = (*given.entries[:number], changed, *given.entries[number + 1 :])
    file.write_bytes(dump_recording(replace(given, entries=entries)))
    result = command(str(file))
    first, where, before, after = result.stdout.splitlines()
    assert result.exit_code == 1
    assert first.endswith("then it differs")
    assert where == f"step {entry.revision} at {entry.at.isoformat()}, reason:"
    assert (before, after) == ("recorded: a whim", f"replayed: {entry.state.reason}")
    assert json.loads(command(str(file), "--json").stdout)["difference"]["recorded"] == "a whim"


def test_a_file_that_is_no_recording_and_a_server_that_is_away_are_errors(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("hello")
    assert f"{file} is no recording of a rollout" in command(str(file)).stderr
    away = command("checkout/3")
    assert (away.exit_code, "no rollout server answers" in away.stderr) == (1, True)
