"""A run's own numbers, its options beside another's, and the phases of several runs."""

import numpy as np
import pytest
from synthetic import write_run

from stratdiff.report import results, runs, statistics


@pytest.fixture
def pair(tmp_path):
    """Differ in an option of their own and in one of a part."""
    write_run(tmp_path / "a", rho=0.1)
    write_run(tmp_path / "b", behaviour={"support_actions": 16}, seeds=(4, 5))
    return results.read([str(tmp_path)])[0]


def test_options_that_differ(pair):
    assert runs.differing(*pair) == ["behaviour.support_actions", "rho"]
    table = runs.options(pair[0].config)
    assert table["rho"] == 0.1 and table["behaviour.widths"] == (128, 64, 32)
    assert "seeds" not in table


def test_regret(pair, tmp_path):
    online = pair[0].evaluations["online"]
    expected = statistics.regret(online["step"], online["score"])
    np.testing.assert_array_equal(pair[0].regret, expected)
    write_run(tmp_path / "returns", normalized=False)
    (run,) = results.read([str(tmp_path / "returns")])[0]
    assert run.regret.shape == (3,) and np.isnan(run.regret).all()


def test_by_task(pair):
    assert runs.by_task(pair) == {("iql", "halfcheetah-medium-replay"): pair}


def test_phases_follow_the_runs(tmp_path):
    write_run(tmp_path / "1", score="none")
    write_run(tmp_path / "2", extra_phases=("density",))
    write_run(tmp_path / "3", score="none", extra_phases=("warm start",))
    found = results.read([str(tmp_path)])[0]
    assert [r.variant for r in found] == ["1", "3", "2"]
    assert runs.phases(found[:1]) == ["base", "online"]
    assert runs.phases(found) == [
        "base", "behaviour", "support", "energy", "density", "warm start", "online",
    ]  # fmt: skip
