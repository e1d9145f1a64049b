"""`describe` against hand-worked numbers, the table's width, and what the pictures survive."""

import io
import json
from statistics import quantiles

import numpy as np
import pytest
from rich.console import Console

from stratdiff.data.dataset import Dataset, transition_rows
from stratdiff.data.tools import info
from stratdiff.tasks import Task

HOPPER = Task("Hopper-v4", 11, 3, 1000, (-20.272305, 3234.3))
UNKNOWN = Task("Mine-v0", 2, 2, None, None)


def make(terminals, timeouts, name="mine", env_id=None, obs=None, actions=None, rewards=None):
    rows = len(terminals)
    rng = np.random.default_rng(0)
    terminals, timeouts = np.array(terminals, bool), np.array(timeouts, bool)
    ends, transitions = transition_rows(terminals, timeouts, None)
    obs = rng.normal(size=(rows, 3)) if obs is None else obs
    actions = rng.uniform(-0.9, 0.9, (rows, 2)) if actions is None else actions
    rewards = rng.normal(size=rows) if rewards is None else rewards
    arrays = (np.asarray(a, np.float32) for a in (obs, actions, rewards))
    return Dataset(name, env_id, *arrays, terminals, ends, transitions)


@pytest.fixture
def small():
    """Three complete episodes of 2, 3 and 2 rows, returns 3, 12 and 13, and one row cut off."""
    return make(
        [0, 1, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0, 0, 0],
        obs=np.stack([np.arange(8), np.full(8, 2), [0, 0, 0, 0, 4, 4, 4, 4]], 1),
        actions=[[1, 0], [-1, 0.5], [0.9995, 0], [0.99, -1], [0, 0], [0, 0], [0, 0], [0, 0]],
        rewards=[1, 2, 3, 4, 5, 6, 7, 8],
    )


def test_numbers(small):
    found = info.describe(small, HOPPER)
    assert (found.rows, found.transitions, found.episodes, found.cut_off_rows) == (8, 6, 3, 1)
    assert (found.terminals, found.timeouts) == (2, 1)
    assert (found.lengths.min, found.lengths.median, found.lengths.max) == (2, 2, 3)
    returns = [3, 12, 13]
    assert found.returns.mean == pytest.approx(28 / 3)
    assert found.returns.std == pytest.approx(np.sqrt(sum((r - 28 / 3) ** 2 for r in returns) / 3))
    quartiles = quantiles(returns, n=4, method="inclusive")
    got = (found.returns.q25, found.returns.median, found.returns.q75)
    assert got == pytest.approx(quartiles)
    assert (found.returns.min, found.returns.max) == (3, 13)
    assert found.scores.max == pytest.approx(100 * (13 + 20.272305) / (3234.3 + 20.272305))
    assert found.action_saturated.tolist() == [3 / 8, 1 / 8] and found.saturated == 4 / 16
    assert found.obs_mean.tolist() == [3.5, 2, 2]
    assert found.obs_std == pytest.approx([np.sqrt(5.25), 0, 2])
    assert found.obs_min.tolist() == [0, 2, 0] and found.obs_max.tolist() == [7, 2, 4]
    assert found.env_id == "Hopper-v4" and found.distance is None


def test_scores_need_references(small):
    assert info.describe(small, None).scores is None
    assert info.describe(small, UNKNOWN).scores is None
    assert info.describe(small, UNKNOWN).returns is not None


def test_no_complete_episode():
    found = info.describe(make([0] * 5, [0] * 5), HOPPER)
    assert (found.episodes, found.cut_off_rows) == (0, 5)
    assert found.lengths is None and found.returns is None and found.scores is None


@pytest.mark.parametrize(
    "name, known",
    [
        ("d4rl/halfcheetah-medium-v2", "halfcheetah-medium-v2"),
        ("stratdiff/halfcheetah-medium-replay", "halfcheetah-medium-replay-v2"),
        ("/data/halfcheetah_medium_expert-v2.hdf5", "halfcheetah-medium-expert-v2"),
        ("d4rl/halfcheetah-medium-v0", None),
        ("stratdiff/halfcheetah-random", None),
        ("minari/mujoco/halfcheetah/medium-v0", None),
        ("d4rl/hopper-medium-v2", None),  # of other dimensions
    ],
)
def test_which_statistics_are_compared(name, known):
    rows = np.zeros(4, bool)
    found = info.describe(make(rows, rows, name, obs=np.zeros((4, 17))), None).distance
    assert (found.to if found else None) == known


def test_distance():
    """States at D4RL's mean plus and minus a std, then all shifted by half of it."""
    known = json.loads((info.Path(info.__file__).parent / "d4rl_v2_state_stats.json").read_text())
    true = known["walker2d-medium-v2"]
    mean, std = np.array(true["mean"]), np.array(true["std"])
    # As published: height of the torso in m, forward velocity in m/s.
    assert mean[[0, 8]] == pytest.approx([1.219, 2.3949], abs=1e-4) and len(mean) == 17
    rows = np.zeros(6, bool)
    obs = mean + np.array([1, -1, 1, -1, 1, -1])[:, None] * std
    found = info.describe(make(rows, rows, "stratdiff/walker2d-medium", obs=obs), None).distance
    assert found.mean_shift == pytest.approx(np.zeros(17), abs=1e-5)
    assert found.std_ratio == pytest.approx(np.ones(17), abs=1e-5)
    shift = np.zeros(17)
    shift[2], shift[5] = 0.5, -2
    obs = mean + shift * std + np.array([2, -2, 2, -2, 2, -2])[:, None] * std
    found = info.describe(make(rows, rows, "stratdiff/walker2d-medium", obs=obs), None).distance
    assert found.mean_shift == pytest.approx(np.abs(shift), abs=1e-5)
    assert found.std_ratio == pytest.approx(np.full(17, 2), abs=1e-4)
    assert found.shift_max == pytest.approx(2, abs=1e-5)
    assert found.shift_rms == pytest.approx(np.sqrt(4.25 / 17), abs=1e-5)
    assert found.shift_median == pytest.approx(0, abs=1e-5)


def test_statistics_are_those_of_the_reference_file(request):
    for folder in request.path.parents:
        reference = folder / "shared/reference/d4rl_v2_state_stats.json"
        if reference.is_file():
            break
    else:
        pytest.skip("no shared/reference here")
    known = json.loads((info.Path(info.__file__).parent / "d4rl_v2_state_stats.json").read_text())
    true = json.loads(reference.read_text())["datasets"]
    assert set(known) == {*true, "source"} and "d6694248" in known["source"]
    for name, values in true.items():
        for key in ("mean", "std"):
            ours, theirs = (np.float32(v) for v in (known[name][key], values[f"state_{key}"]))
            assert (ours == theirs).all()


def test_dictionary_is_json(small):
    found = json.loads(json.dumps(info.to_dict(info.describe(small, HOPPER))))
    assert found["rows"] == 8 and found["obs_mean"] == [3.5, 2, 2]
    assert found["returns"]["max"] == 13 and found["distance"] is None


def test_table_fits_80_columns():
    rng = np.random.default_rng(0)
    ends = np.arange(40) % 4 == 3
    data = make(
        ends,
        np.zeros(40),
        "stratdiff/hopper-medium",
        "Hopper-v4",
        obs=rng.normal(size=(40, 11)) * 10.0 ** np.arange(-7, 4),
        rewards=-3e4 * rng.uniform(size=40),
    )
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(info.table(info.describe(data, HOPPER)))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    for words in ("hopper-medium-v2", "10 complete", "std/std*", "score", "RMS", "Hopper-v4"):
        assert words in text
