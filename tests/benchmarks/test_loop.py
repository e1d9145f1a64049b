"""The measured online loop is that of a real run."""

import pytest

from benchmarks import loop


@pytest.mark.slow
def test_shares_of_a_runs_time():
    found = loop.run(3, base="iql", score="none", batch_size=8)
    assert found["steps_per_second"] > 0
    assert found["compile_seconds"] > 0
    assert sum(found["share"].values()) == pytest.approx(1)
