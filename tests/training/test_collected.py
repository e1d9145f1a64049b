"""The replay buffer of a run as a data set: against the environment, and D4RL's loop."""

import re
from pathlib import Path

import gymnasium
import h5py
import jax.numpy as jnp
import numpy as np
import pointmass
import pytest
import runs
from logged import qlearning_dataset

import stratdiff
from stratdiff.cli import main
from stratdiff.data import hdf5
from stratdiff.data.batch import Transition
from stratdiff.data.replay import empty_replay
from stratdiff.data.sources import load_dataset
from stratdiff.errors import UserError
from stratdiff.training import collected
from stratdiff.training.evaluate import episode_seed


def written(source, out):
    assert main(["data", "convert", str(source), str(out)]) == 0
    return out


def test_the_environment_gives_what_is_written(small_run, tmp_path):
    """The exported actions, played again, lead through the exported states in its own units."""
    run = runs.copy(small_run, tmp_path / "run")
    there = sorted(path.name for path in run.iterdir())
    path = written(run / "replay", tmp_path / "out.hdf5")
    assert sorted(path.name for path in run.iterdir()) == there
    arrays = hdf5.read_arrays(path, ("observations", "actions", "rewards", "terminals", "timeouts"))
    steps, horizon = small_run.config.online_steps, pointmass.HORIZON
    np.testing.assert_array_equal(
        np.flatnonzero(arrays["timeouts"]), [horizon, 2 * horizon + 1, 3 * horizon + 2]
    )
    found = list(zip(*qlearning_dataset(arrays), strict=True))
    assert len(found) == steps
    mean = load_dataset(small_run.config.dataset).observations.mean(0)
    env, states, rewards = gymnasium.make("PointMass-v0"), [], []
    for number in range(steps // horizon):
        obs, _ = env.reset(seed=episode_seed(0, 0, number))
        for t in range(horizon):
            row = number * horizon + t
            after, reward, *_ = env.step(found[row][1])
            states += [(obs, found[row][0]), (after, found[row][3])]
            rewards.append((reward, found[row][2]))
            obs = after
    # Rounded twice, at the step of float32: relative to the mean's distance, then to itself.
    true, exported = (np.array(x, np.float64) for x in zip(*states, strict=True))
    assert (np.abs(true - exported) <= 2.0**-23 * (np.abs(true - mean) + np.abs(true))).all()
    true, exported = (np.array(x, np.float64) for x in zip(*rewards, strict=True))
    assert (np.abs(true - exported) <= 2.0**-22 * np.abs(true)).all()
    with h5py.File(path) as file:
        assert file.attrs["env_id"] == pointmass.ENV
        assert file.attrs["name"] == "run/replay"


@pytest.mark.slow
def test_the_units_are_those_of_the_data_that_were_learned_from(tiny, tmp_path):
    """With trajectories held out, states are normalised by the others."""
    config = tiny(
        score="none", offline_steps=20, online_steps=20, log_interval=20, eval_episodes=0,
        validation_fraction=0.5,
    )  # fmt: skip
    run = stratdiff.train(config, tmp_path / "run", reporter=runs.QUIET)
    dataset = collected.collected(run.directory)
    obs, _ = gymnasium.make("PointMass-v0").reset(seed=episode_seed(0, 0, 0))
    np.testing.assert_allclose(dataset.observations[0], obs, rtol=1e-5, atol=1e-6)


def test_a_buffer_that_has_run_over():
    """Rows in time order, the oldest episode without its beginning; nothing joined or lost."""
    ends = [(2, True), (4, False), (3, True), (1, False), (2, False)]  # length, terminal
    buffer = empty_replay(8, 1, 1, ())
    inserted, state = [], 0.0
    for length, terminal in ends:
        state += 100
        for t in range(length):
            last = terminal and t == length - 1
            inserted.append((state, len(inserted) / 100, -state, state + 1, last))
            obs, action, reward, after, over = inserted[-1]
            buffer = buffer.insert(
                Transition(
                    jnp.array([obs]), jnp.array([action]), jnp.array(reward), jnp.array([after]),
                    jnp.array(over), jnp.array(0.0),
                ),
                (),
            )  # fmt: skip
            state += 1
    arrays = {key: np.asarray(x) for key, x in buffer.data._asdict().items() if x is not None}
    rows = collected._in_time_order(arrays | {"inserted": np.asarray(buffer.inserted)})
    np.testing.assert_array_equal(np.flatnonzero(rows["timeouts"]), [2, 7, 10])
    found = qlearning_dataset(rows)
    kept = inserted[-8:]
    for column, name in enumerate(("obs", "action", "reward", "after", "terminal")):
        expected = np.array([row[column] for row in kept], np.float32)
        got = np.asarray(found[column], np.float32).reshape(-1)
        if name == "after":  # nothing is bootstrapped from what follows a terminal
            ended = np.array([row[4] for row in kept])
            expected, got = expected[~ended], got[~ended]
        np.testing.assert_array_equal(got, expected)


def test_seeds_follow_each_other(tmp_path, small_run, monkeypatch):
    """As trajectories of their own; the same rows as each alone."""
    run = runs.copy(small_run, tmp_path / "run")
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace('"seeds": [\n    0\n  ]', '"seeds": [4, 7]'))
    position, buffer = collected._buffer(run, "it", {"online", *small_run.summary["seconds"]})
    twice = {key: np.concatenate([x, x]) for key, x in buffer.items()}
    twice["action"][1] *= -1
    monkeypatch.setattr(collected, "_buffer", lambda *_: (position, twice))
    both, first, second = (collected.collected(run, seed) for seed in (None, 4, 7))
    assert len(both) == len(first) + len(second)
    rows = len(first.rewards)
    for part, one in ((slice(rows), first), (slice(rows, None), second)):
        np.testing.assert_array_equal(both.actions[part], one.actions)
        np.testing.assert_array_equal(both.ends[part], one.ends)
    assert not np.array_equal(first.actions, second.actions)
    assert collected.run_of(f"{run}/replay/7") == (run, 7)
    assert collected.run_of(f"{run}/policies") is None
    with pytest.raises(UserError, match=r"has no seed 0; its seeds are 4, 7"):
        collected.collected(run, 0)


def test_what_is_refused(small_run, tmp_path, capsys):
    run = runs.copy(small_run, tmp_path / "run")
    with pytest.raises(UserError, match=r"has no config\.json"):
        collected.collected(tmp_path)
    assert main(["data", "convert", f"{tmp_path}/replay", f"{tmp_path}/out.hdf5"]) == 2
    assert "RUN/replay" in capsys.readouterr().err
    other = load_dataset(small_run.config.dataset)
    other.rewards[0] += 1
    with pytest.raises(UserError, match=r"is not the one that the run .* give the data back"):
        collected.collected(run, dataset=other)
    (run / "checkpoints").rename(run / "elsewhere")
    assert main(["data", "convert", f"{run}/replay", f"{tmp_path}/out.hdf5"]) == 2
    assert "no checkpoint with an online step" in capsys.readouterr().err
    assert not (tmp_path / "out.hdf5").exists()


def test_the_commands_of_the_page(small_run, tmp_path, monkeypatch):
    """docs/datasets.md: a run's buffer as HDF5, of one seed, and from there as a Minari set."""
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    runs.copy(small_run, tmp_path / "runs" / "mine")
    lines = re.findall(r"^stratdiff (data convert .*?)(?: +#.*)?$", page, re.M)
    assert len(lines) == 3
    for line in lines:
        assert main(line.split()) == 0
    found = [load_dataset(name) for name in ("collected.hdf5", "seed0.hdf5", lines[2].split()[-1])]
    assert len({len(dataset) for dataset in found}) == len({d.fingerprint for d in found}) == 1
    assert found[2].env_id == pointmass.ENV


@pytest.mark.slow
def test_a_run_on_what_another_collected(small_run, tiny, tmp_path):
    path = written(small_run.directory / "replay", tmp_path / "out.hdf5")
    result = stratdiff.train(tiny(dataset=str(path)), tmp_path / "next", reporter=runs.QUIET)
    assert result.summary["dataset"]["transitions"] == small_run.config.online_steps
    assert np.isfinite(result.summary["score"]["after"]["mean"])
