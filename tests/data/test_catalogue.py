"""The catalogue against the reference file, and loading by name without D4RL's server."""

import dataclasses
import http.server
import json
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from stratdiff.data import catalogue, d4rl, download
from stratdiff.errors import UserError
from stratdiff.tasks import find_task


def reference():
    """`shared/` is no part of a checkout that stands alone."""
    for folder in Path(__file__).parents:
        path = folder / "shared" / "reference" / "d4rl_reference.json"
        if path.is_file():
            return json.loads(path.read_text())
    pytest.skip("no shared/reference/d4rl_reference.json beside this checkout")


def of_source(source):
    return {e.name: e for e in catalogue.entries() if e.source == source}


def test_d4rl_entries_are_those_of_the_reference_file():
    expected = reference()["datasets"]
    found = of_source("d4rl")
    assert len(found) == 148
    assert set(found) == {f"d4rl/{name}" for name in expected}
    for name, facts in expected.items():
        entry = found[f"d4rl/{name}"]
        assert entry.url == facts["url"]
        assert entry.file == facts["file"]
        assert entry.reference_returns == (facts["ref_min_score"], facts["ref_max_score"])
        assert entry.horizon == facts["max_episode_steps"]


def test_antmaze_environments_have_the_maze_of_the_reference_file():
    mazes = {"U_MAZE": "umaze", "BIG_MAZE": "medium", "HARDEST_MAZE": "large"}
    sets = {n: f for n, f in reference()["datasets"].items() if n.startswith("antmaze")}
    assert len(sets) == 24
    for name, facts in sets.items():
        maze, _, kind = facts["maze_map"].removesuffix("_TEST").partition("_EVAL")
        evaluation = "eval-" if facts["maze_map"].endswith("_EVAL_TEST") else ""
        assert kind in ("", "_TEST")
        expected = f"stratdiff/AntMaze-{evaluation}{mazes[maze]}-v2"
        assert catalogue.find(f"d4rl/{name}").env_id == expected


def test_some_entries_by_hand():
    server = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"
    entry = catalogue.find("d4rl/halfcheetah-medium-replay-v2")
    assert entry == catalogue.Entry(
        name="d4rl/halfcheetah-medium-replay-v2",
        source="d4rl",
        env_id="HalfCheetah-v4",
        horizon=1000,
        reference_returns=(-280.178953, 12135.0),
        rows=202_000,
        episodes=202,
        url=server + "gym_mujoco_v2/halfcheetah_medium_replay-v2.hdf5",
        file="halfcheetah_medium_replay-v2.hdf5",
    )
    assert catalogue.find("d4rl/walker2d-medium-replay-v0").url == (
        server + "gym_mujoco/walker_mixed.hdf5"
    )
    entry = catalogue.find("d4rl/door-human-longhorizon-v1")
    assert (entry.horizon, entry.env_id, entry.file) == (300, None, "door-human-v1.hdf5")
    assert catalogue.find("d4rl/ant-medium-v2").env_id is None
    assert catalogue.find("d4rl/antmaze-umaze-v1").env_id == "stratdiff/AntMaze-umaze-v2"


def test_made_and_minari_names():
    made = of_source("stratdiff")
    assert len(made) == 27
    entry = made["stratdiff/walker2d-full-replay"]
    assert (entry.env_id, entry.horizon) == ("Walker2d-v4", 1000)
    assert entry.reference_returns == (1.629008, 4592.3)
    entry = made["stratdiff/antmaze-umaze-diverse"]
    assert (entry.env_id, entry.horizon) == ("stratdiff/AntMaze-umaze-v2", 700)
    assert "stratdiff/antmaze-umaze" in made and "stratdiff/antmaze-large-play" in made
    minari = of_source("minari")
    assert len(minari) == 41
    for name in (
        "mujoco/halfcheetah/medium-v0",
        "D4RL/antmaze/large-diverse-v1",
        "D4RL/pointmaze/open-dense-v2",
        "D4RL/relocate/cloned-v2",
        "D4RL/kitchen/mixed-v2",
    ):
        assert minari[f"minari/{name}"] == catalogue.Entry(f"minari/{name}", "minari")


def test_names_are_unique_and_carry_their_source():
    names = [entry.name for entry in catalogue.entries()]
    assert len(names) == len(set(names)) == 148 + 27 + 41
    for entry in catalogue.entries():
        assert entry.name.startswith(f"{entry.source}/")
        assert catalogue.find(entry.name) is entry


@pytest.mark.parametrize("env_id", sorted({e.env_id for e in catalogue.entries() if e.env_id}))
def test_environments_exist_and_agree(env_id):
    task = find_task(env_id)
    for entry in catalogue.entries():
        if entry.env_id == env_id:
            assert entry.horizon == task.horizon
            if task.reference_returns is not None:
                assert entry.reference_returns == task.reference_returns


def test_any_minari_id_is_accepted():
    entry = catalogue.find("minari/me/my-robot/test-v3")
    assert entry == catalogue.Entry("minari/me/my-robot/test-v3", "minari")


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("d4rl/hoper-medium-v2", "d4rl/hopper-medium-v2"),
        ("hopper-medium-v2", "d4rl/hopper-medium-v2"),
        ("stratdiff/antmaze-large", "stratdiff/antmaze-large-play"),
        ("minari/", "minari/"),
    ],
)
def test_unknown_name(name, close):
    with pytest.raises(UserError, match="unknown data set") as caught:
        catalogue.find(name)
    assert repr(name) in str(caught.value) and close in str(caught.value)


# Loading

ENTRY = catalogue.find("d4rl/antmaze-umaze-v0")


def make_arrays(rows=1500):
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(rows, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": np.zeros(rows, np.float32),
        "terminals": np.zeros(rows, np.float32),
    }


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("D4RL_DATASET_DIR", raising=False)
    return tmp_path / "home" / ".d4rl" / "datasets"


def test_where_files_are(home, tmp_path, monkeypatch):
    assert catalogue.d4rl_path(ENTRY) is None
    assert catalogue.d4rl_target(ENTRY) == home / ENTRY.file
    home.mkdir(parents=True)
    (home / ENTRY.file).write_text("")
    assert catalogue.d4rl_path(ENTRY) == home / ENTRY.file
    mine = tmp_path / "mine"
    monkeypatch.setenv("D4RL_DATASET_DIR", str(mine))
    assert catalogue.d4rl_path(ENTRY) == home / ENTRY.file
    assert catalogue.d4rl_target(ENTRY) == mine / ENTRY.file
    mine.mkdir()
    (mine / ENTRY.file).write_text("")
    assert catalogue.d4rl_path(ENTRY) == mine / ENTRY.file
    assert catalogue.d4rl_path(catalogue.find("stratdiff/hopper-random")) is None


@pytest.mark.parametrize(("written", "expected"), [("", ENTRY.env_id), ("Mine-v0", "Mine-v0")])
def test_local_file(home, monkeypatch, written, expected):
    monkeypatch.setattr(download, "fetch", None)
    d4rl.write(home / ENTRY.file, make_arrays(), written)
    dataset = catalogue.load_d4rl(ENTRY)
    assert dataset.name == ENTRY.name
    # The file has no timeouts: umaze cuts after 700 steps.
    np.testing.assert_array_equal(np.flatnonzero(dataset.ends), [699, 1399])
    assert dataset.env_id == expected


def test_download(home, tmp_path, monkeypatch):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    folder = tmp_path / "server"
    d4rl.write(folder / "some" / ENTRY.file, make_arrays(), "")
    handler = partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        entry = dataclasses.replace(
            ENTRY, url=f"http://127.0.0.1:{server.server_port}/some/{ENTRY.file}"
        )
        calls = []
        dataset = catalogue.load_d4rl(entry, lambda done, total: calls.append((done, total)))
        server.shutdown()
        thread.join()
    size = (folder / "some" / ENTRY.file).stat().st_size
    assert calls[-1] == (size, size)
    np.testing.assert_array_equal(dataset.observations, make_arrays()["observations"])
    assert [file.name for file in home.iterdir() if file.suffix != ".lock"] == [ENTRY.file]
    # The server is gone; the file is here.
    assert catalogue.load_d4rl(entry).fingerprint == dataset.fingerprint
