"""`stratdiff data`: what a user sees, and one clear sentence for every mistake."""

import json

import numpy as np
import pointmass
import pytest
from commands import run

from stratdiff.config import make_config
from stratdiff.data import d4rl, hdf5, sources
from stratdiff.data.dataset import Dataset
from stratdiff.data.made import store
from stratdiff.errors import UserError
from stratdiff.sinks.progress import Reporter
from stratdiff.training.loop import train


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """No data set of this machine is seen."""
    for name in ("STRATDIFF_CACHE", "D4RL_DATASET_DIR", "MINARI_DATASETS_PATH"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_list_names_every_set(capsys):
    code, out, _ = run(capsys, "data", "list")
    assert code == 0
    for entry in sources.entries():
        assert entry.name in out
    assert len(sources.entries()) > 200


def test_list_shows_what_is_here(capsys, places):
    arrays = pointmass.make_arrays(episodes=3)
    _, entry = sources.locate("d4rl/hopper-medium-v2")
    hdf5.write(d4rl.target(entry), arrays, "Hopper-v4")
    _, older = sources.locate("d4rl/hopper-medium-v1")
    d4rl.target(older).write_bytes(b"no HDF5")
    code, out, _ = run(capsys, "data", "list", "hopper-medium-v")
    lines = {line.split()[0]: line.split() for line in out.splitlines() if "hopper" in line}
    rows = len(arrays["rewards"])
    assert code == 0 and lines["d4rl/hopper-medium-v2"][2:4] == [f"{rows:,}", "3"]
    assert lines["d4rl/hopper-medium-v2"][-1] == "yes"
    assert lines["d4rl/hopper-medium-v1"][-1] == "damaged"
    assert lines["d4rl/hopper-medium-v0"][-1] == "Hopper-v4"


def test_make_then_use(capsys, places):
    code, out, _ = run(
        capsys, "data", "make", "stratdiff/hopper-random", "--size", 400, "--jobs", 1
    )
    path = out.split()[0]
    assert code == 0 and path == str(store.cached("stratdiff/hopper-random", 400))
    assert f"stratdiff train --dataset {path}" in out
    code, out, _ = run(capsys, "data", "info", path, "--json", "--plot", places / "look.png")
    found = json.loads(out)
    assert code == 0 and found["rows"] == 400
    assert (places / "look.png").stat().st_size > 10_000
    code, out, _ = run(capsys, "data", "info", path)
    assert code == 0 and "400" in out
    code, out, _ = run(capsys, "data", "check", path, "--rows", 50)
    assert code == 0 and "match" in out


def test_convert(capsys, places):
    arrays = pointmass.make_arrays(episodes=2)
    np.savez(places / "mine.npz", **arrays)
    out = places / "mine.hdf5"
    code, _, _ = run(capsys, "data", "convert", places / "mine.npz", out, "--env", pointmass.ENV)
    assert code == 0 and hdf5.read(out).env_id == pointmass.ENV
    code, _, err = run(capsys, "data", "convert", places / "mine.npz", out)
    assert code == 2 and "already exists" in err


def test_usage(capsys):
    assert run(capsys, "data")[0] == 2
    code, out, _ = run(capsys, "data", "--help")
    assert code == 0 and all(word in out for word in ("list", "make", "info", "check", "convert"))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["lst"], ["'data lst'", "list, make"]),
        (["list", "zebra"], ["'zebra'"]),
        (["make", "stratdiff/hoper-medium"], ["'stratdiff/hoper-medium'", "hopper-medium"]),
        (["make", "d4rl/hopper-medium-v2"], ["'d4rl/hopper-medium-v2'", "data list"]),
        (["make", "stratdiff/hopper-medium", "--size", "0"], ["--size is 0", "2 rows"]),
        (["info", "nowhere.hdf5"], ["'nowhere.hdf5'", "does not exist"]),
        (["info", "d4rl/hopper-medum-v2"], ["d4rl/hopper-medium-v2"]),
        (["check", "nowhere.hdf5"], ["'nowhere.hdf5'", "does not exist"]),
        (["check", "minari/mujoco/hopper/medium-v0"], ["data convert"]),
        (["convert", "nowhere.npz", "out.hdf5"], ["'nowhere.npz'", "does not exist"]),
    ],
)
def test_mistakes(capsys, args, expected):
    code, out, err = run(capsys, "data", *args)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    for word in expected:
        assert word in err


def test_train_names_near_data_sets(capsys):
    code, _, err = run(capsys, "train", "--dataset", "stratdiff/hopper-medum")
    assert code == 2 and "stratdiff/hopper-medium" in err and err.count("\n") == 1


def test_the_recipe_follows_from_the_data():
    assert make_config(dataset="stratdiff/antmaze-umaze").recipe == "antmaze"
    assert make_config(dataset="d4rl/antmaze-large-play-v2").scoring.behaviour.support_actions == 32
    assert make_config(dataset="d4rl/hopper-medium-v2").recipe == "locomotion"
    assert (
        make_config(dataset="stratdiff/antmaze-umaze", recipe="locomotion").recipe == "locomotion"
    )
    mine = {"dataset": "mine.hdf5", "env": "stratdiff/AntMaze-large-v2"}
    assert make_config(**mine).recipe == "antmaze"


def test_the_recipe_of_a_file(places):
    path = places / "ant.hdf5"
    hdf5.write(path, pointmass.make_arrays(episodes=2), "stratdiff/AntMaze-umaze-v2")
    assert make_config(dataset=str(path)).recipe == "antmaze"


def dataset(rows, ends, **fields):
    """A made-up set for PointMass."""
    rng = np.random.default_rng(0)
    stops = np.zeros(rows, bool)
    stops[list(ends)] = True
    return Dataset(
        name="mine",
        env_id=pointmass.ENV,
        observations=rng.normal(size=(rows, 2)).astype(np.float32),
        actions=rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        terminals=stops,
        ends=stops,
        transitions=np.arange(rows - 1),
        **fields,
    )


@pytest.mark.parametrize(
    ("ends", "longest"), [((41, 60), 42), ((10, 99), 89), ((30,), 69), ((), 100)]
)
def test_episodes_longer_than_the_horizon(places, tiny, ends, longest):
    # PointMass cuts after 40 steps; one more row may hold the last observation.
    data = dataset(100, ends)
    assert data.longest == longest
    with pytest.raises(UserError, match=rf"trajectory of {longest} rows .* after 40 steps"):
        train(tiny(), places / "out", data)
    assert not (places / "out").exists()


def test_longest_trajectory_that_is_allowed(places, tiny):
    data = dataset(82, (40, 81))
    assert data.longest == 41
    train(tiny(offline_steps=20, online_steps=0, score="none"), places / "out", data)


def test_newer_mujoco_is_said(places, tiny, monkeypatch):
    said = []
    monkeypatch.setattr(Reporter, "say", lambda self, text: said.append(text))
    from stratdiff.training import run as module

    monkeypatch.setattr(
        module, "physics_note", lambda env_id, made_with: f"{env_id} of MuJoCo {made_with}"
    )
    data = dataset(41, (40,), metadata={"mujoco": "99.1"})
    train(
        tiny(offline_steps=20, online_steps=0, score="none", reward_scale=1.0),
        places / "out",
        data,
    )
    assert any("warning: data set 'mine'" in s and "MuJoCo 99.1" in s for s in said)


@pytest.mark.parametrize(
    ("made_in", "env", "refused"),
    [
        ("Walker2d-v4", "HalfCheetah-v4", True),  # states and actions of the same sizes
        ("HalfCheetah-v5", "HalfCheetah-v4", False),
        ("MyRobot-v0", "HalfCheetah-v4", False),
        ("stratdiff/AntMaze-umaze-v2", "stratdiff/AntMaze-large-v2", True),
    ],
)
def test_file_of_another_environment(places, tiny, made_in, env, refused):
    sizes = (29, 8) if "AntMaze" in env else (17, 6)
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(40, sizes[0])),
        "actions": rng.uniform(-1, 1, (40, sizes[1])),
        "rewards": rng.normal(size=40),
        "terminals": np.zeros(40, bool),
        "timeouts": np.arange(40) % 20 == 19,
    }
    path = places / "other.hdf5"
    hdf5.write(path, arrays, made_in)
    config = tiny(dataset=str(path), env=env, offline_steps=20, online_steps=0, score="none")
    if refused:
        with pytest.raises(UserError, match=f"collected in '{made_in}', not in .*'{env}'"):
            train(config, places / "out")
        assert not (places / "out").exists()
    else:
        train(config, places / "out")


@pytest.mark.parametrize("name", ["stratdiff/halfcheetah-medium-replay", "what I call it"])
def test_data_in_memory_are_not_scored_by_another_set(places, tiny, name):
    # The config's name, a default or the user's own, says nothing of data given in memory.
    options = {"dataset": name, "offline_steps": 20, "online_steps": 0, "score": "none"}
    result = train(tiny(**options), places / "out", dataset(82, (40, 81)))
    assert result.summary["normalized"] is False
