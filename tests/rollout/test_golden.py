"""envoy-configs and splits of each golden case give the snapshot of its out.yaml; see tests/golden/cases.py."""

import os

import pytest

from tests.golden.cases import CASES, FOLDER, rendered


@pytest.mark.parametrize("case", CASES)
def test_snapshot_is_as_written_down(case: str) -> None:
    golden = FOLDER / case / "out.yaml"
    found = rendered(case)
    if os.environ.get("ROLLOUT_GOLDEN") == "write":
        golden.write_text(found)
    assert found == golden.read_text(), "if this is meant, write it anew: ROLLOUT_GOLDEN=write pytest " + __file__
