"""Both sides of the parity check train on the same data and are scored at the same points."""

import numpy as np
import pytest

from benchmarks import parity

pytest.importorskip("d3rlpy")

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore")  # d3rlpy's own
@pytest.mark.parametrize("base", ["iql", "calql"])
def test_both_sides_give_a_score_a_seed(tiny, base):
    config = tiny(
        base=base, score="none", seeds=[0, 1], offline_steps=20, offline_eval_interval=10,
        online_steps=0, log_interval=10,
    )  # fmt: skip
    mine, theirs = parity.ours_from_their_weights(config), parity.theirs(config)
    assert list(mine) == list(theirs) == [10, 20]
    assert mine != parity.ours(config)  # it started from other weights
    for curve in (mine, theirs):
        assert np.isfinite(list(curve.values())).all()
        assert all(len(scores) == 2 and scores[0] != scores[1] for scores in curve.values())
