import shutil

import jax
import numpy as np
import pytest
import runs

import stratdiff
from benchmarks import selection
from stratdiff.errors import UserError
from stratdiff.training.session import Session


def test_ranks_equal_counting():
    rng = np.random.default_rng(0)
    rows = {name: rng.integers(0, 9, 60).astype(float) for name in selection.FEATURES}
    rows["return"][::3] = -np.inf
    rows["log μ"][:] = np.nan
    rows |= {"online": np.arange(60) % 2 == 1, "conservative": rng.random(60) < 0.3}
    found = selection._summary(rows)
    for k, (online, conservative) in enumerate(((0, 1), (0, 0), (1, 1), (1, 0))):
        pairs = zip(rows["online"], rows["conservative"], strict=True)
        kind = [i for i, pair in enumerate(pairs) if pair == (online, conservative)]
        assert found["share"][k] == len(kind) / 60
        for name in ("age", "return"):
            values = [x for x in rows[name] if np.isfinite(x)]
            below = [
                np.mean([(y < rows[name][i]) + 0.5 * (y == rows[name][i]) for y in values])
                for i in kind
                if np.isfinite(rows[name][i])
            ]
            assert found[name][k] == pytest.approx(np.mean(below))
    assert np.isnan(found["log μ"]).all()


@pytest.mark.slow
def test_the_likelihood_ratio_selects_what_it_says(data_file, tmp_path):
    finished = tmp_path / "run"
    options = runs.TINY | {"dataset": str(data_file), "score": "likelihood", "seeds": (0, 1)}
    config = stratdiff.make_config(**options)
    stratdiff.train(config, finished, reporter=runs.QUIET)
    setup, states, data = selection.read(finished)
    with Session(config, finished, reporter=runs.QUIET) as session:
        jax.tree.map(np.testing.assert_array_equal, states, session.state)
    state = jax.tree.map(lambda x: x[1], states)
    found = selection.scored(setup.algorithm, state, data, 8)
    rows = {name: np.asarray(value).reshape(-1, 16) for name, value in found.items()}
    assert rows["online"].shape == (120 // 8, 16)
    assert (rows["online"] == (np.arange(16) >= 8)).all()
    ratio = rows["log π"] - rows["log μ"]
    for batch, conservative in zip(ratio, rows["conservative"], strict=True):
        assert conservative.sum() == 8
        assert batch[conservative].max() <= batch[~conservative].min() + 1e-4
    # Every stored row once.
    assert sorted(rows["age"][rows["online"]]) == list(range(1, 121))


def test_a_table_of_a_run_which_stays_as_it_is(small_run, tmp_path):
    directory = runs.copy(small_run, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in directory.rglob("*") if p.is_file()}
    measured = selection.measure(directory)
    assert {p: p.stat().st_mtime_ns for p in directory.rglob("*") if p.is_file()} == before
    share = measured["share"]
    assert share.shape == (1, 4)
    np.testing.assert_allclose(share.sum(1), 1)
    np.testing.assert_allclose(share[:, 0] + share[:, 2], 0.5)
    # As many rows of either origin, so as many leave it on both sides.
    np.testing.assert_allclose(share[:, 1], share[:, 2], atol=1e-7)
    lines = selection.table(measured).splitlines()
    assert lines[0] == "| rows | share | age | return | advantage | Q | log π | log μ |"
    assert f"| {selection.KINDS[0]} | {share[0, 0]:.3f} | – |" in lines[2]


def test_without_checkpoints_nothing_is_touched(small_run, tmp_path):
    directory = runs.copy(small_run, tmp_path / "run")
    shutil.rmtree(directory / "checkpoints")
    with pytest.raises(UserError, match="has no checkpoints, and so no replay buffer"):
        selection.measure(directory)
    assert not (directory / "checkpoints").exists()


def test_no_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["selection", str(tmp_path)])
    assert selection.main() == 2
    out, err = capsys.readouterr()
    assert out == "" and "is no finished run: it has no summary.json" in err
