"""D4RL's sets against the reference file, and loading by name without D4RL's server."""

import dataclasses
import hashlib
import http.server
import json
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from stratdiff.cli import main
from stratdiff.data import d4rl, download, hdf5, sources
from stratdiff.data.d4rl import D4RL
from stratdiff.errors import UserError

SOURCE = D4RL("d4rl/")


def reference():
    """`shared/` is no part of a checkout that stands alone."""
    for folder in Path(__file__).parents:
        path = folder / "shared" / "reference" / "d4rl_reference.json"
        if path.is_file():
            return json.loads(path.read_text())
    pytest.skip("no shared/reference/d4rl_reference.json beside this checkout")


def test_d4rl_entries_are_those_of_the_reference_file():
    expected = reference()["datasets"]
    found = {entry.name: entry for entry in SOURCE.entries()}
    assert len(found) == 148
    assert set(found) == {f"d4rl/{name}" for name in expected}
    for name, facts in expected.items():
        entry = found[f"d4rl/{name}"]
        assert entry.urls == (facts["url"],)
        assert d4rl.target(entry).name == facts["file"]
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
        assert SOURCE.find(f"d4rl/{name}").env_id == expected


def test_some_entries_by_hand():
    server = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"
    entry = SOURCE.find("d4rl/halfcheetah-medium-replay-v2")
    assert entry == sources.Entry(
        name="d4rl/halfcheetah-medium-replay-v2",
        env_id="HalfCheetah-v4",
        horizon=1000,
        reference_returns=(-280.178953, 12135.0),
        rows=202_000,
        episodes=202,
        urls=(server + "gym_mujoco_v2/halfcheetah_medium_replay-v2.hdf5",),
    )
    assert SOURCE.find("d4rl/walker2d-medium-replay-v0").urls[0] == (
        server + "gym_mujoco/walker_mixed.hdf5"
    )
    entry = SOURCE.find("d4rl/door-human-longhorizon-v1")
    assert (entry.horizon, entry.env_id) == (300, None)
    assert d4rl.target(entry).name == "door-human-v1.hdf5"
    assert SOURCE.find("d4rl/ant-medium-v2").env_id is None
    assert SOURCE.find("d4rl/antmaze-umaze-v1").env_id == "stratdiff/AntMaze-umaze-v2"


# Loading

ENTRY = SOURCE.find("d4rl/antmaze-umaze-v0")
FILE = d4rl.target(ENTRY).name


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
    assert SOURCE.local(ENTRY) is None
    assert d4rl.target(ENTRY) == home / FILE
    home.mkdir(parents=True)
    (home / FILE).write_text("")
    assert SOURCE.local(ENTRY) == home / FILE
    mine = tmp_path / "mine"
    monkeypatch.setenv("D4RL_DATASET_DIR", str(mine))
    assert SOURCE.local(ENTRY) == home / FILE
    assert d4rl.target(ENTRY) == mine / FILE
    mine.mkdir()
    (mine / FILE).write_text("")
    assert SOURCE.local(ENTRY) == mine / FILE


@pytest.mark.parametrize(("written", "expected"), [("", ENTRY.env_id), ("Mine-v0", "Mine-v0")])
def test_local_file(home, monkeypatch, written, expected):
    monkeypatch.setattr(download, "fetch", None)
    hdf5.write(home / FILE, make_arrays(), written)
    dataset = SOURCE.load(ENTRY)
    assert dataset.name == ENTRY.name
    # The file has no timeouts: umaze cuts after 700 steps.
    np.testing.assert_array_equal(np.flatnonzero(dataset.ends), [699, 1399])
    assert dataset.env_id == expected


def test_download(home, tmp_path, monkeypatch):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    folder = tmp_path / "server"
    hdf5.write(folder / "some" / FILE, make_arrays(), "")
    handler = partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        here = f"http://127.0.0.1:{server.server_port}"
        entry = dataclasses.replace(ENTRY, urls=(f"{here}/some/{FILE}",))
        calls = []
        dataset = SOURCE.load(entry, progress=lambda done, total: calls.append((done, total)))
        server.shutdown()
        thread.join()
    size = (folder / "some" / FILE).stat().st_size
    assert calls[-1] == (size, size)
    np.testing.assert_array_equal(dataset.observations, make_arrays()["observations"])
    assert [file.name for file in home.iterdir() if file.suffix != ".lock"] == [FILE]
    # The server is gone; the file is here.
    assert SOURCE.load(entry).fingerprint == dataset.fingerprint


@pytest.fixture
def mirrors(tmp_path):
    """Folders that are served, each by a host of its own: their addresses."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path)

    servers = []
    for name in ("broken", "flat", "whole"):
        (tmp_path / name).mkdir()
        handler = partial(Handler, directory=str(tmp_path / name))
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        serve = partial(servers[-1].serve_forever, poll_interval=0.01)
        threading.Thread(target=serve).start()
    yield [f"http://127.0.0.1:{server.server_port}/" for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


def test_mirrors_are_tried_in_turn(home, tmp_path, mirrors, monkeypatch):
    monkeypatch.setattr(download, "_WAITS", (0.0,))
    place = ENTRY.urls[0].removeprefix(d4rl.SERVERS[0])
    for name, content in (("broken", b"<html>down for maintenance</html>"), ("whole", None)):
        file = tmp_path / name / place
        if content is None:
            hdf5.write(file, make_arrays(), "")
        else:
            file.parent.mkdir(parents=True)
            file.write_bytes(content)
    monkeypatch.setenv(d4rl.MIRRORS, " ".join(mirrors))
    dataset = SOURCE.load(ENTRY)  # the known host is not asked
    assert len(dataset.rewards) == 1500
    assert [file.name for file in home.iterdir() if file.suffix != ".lock"] == [FILE]


def test_a_mirror_may_have_all_files_in_one_folder(home, tmp_path, mirrors, monkeypatch):
    hdf5.write(tmp_path / "flat" / FILE, make_arrays(), "")
    monkeypatch.setenv(d4rl.MIRRORS, mirrors[1])
    assert len(SOURCE.load(ENTRY).rewards) == 1500


@pytest.mark.parametrize("wanted", [{"rows": 1600}, {"sha256": "0" * 64}])
def test_a_file_that_is_not_the_one_wanted(home, tmp_path, mirrors, monkeypatch, wanted):
    hdf5.write(tmp_path / "flat" / FILE, make_arrays(), "")
    entry = dataclasses.replace(ENTRY, urls=(mirrors[1] + FILE,), **wanted)
    with pytest.raises(UserError, match=r"not the file: it.* --mirror URL, or put the file at"):
        SOURCE.load(entry)
    assert not [file for file in home.iterdir() if not file.name.endswith(".lock")]
    right = hashlib.sha256((tmp_path / "flat" / FILE).read_bytes()).hexdigest()
    SOURCE.load(dataclasses.replace(entry, rows=1500, sha256=right))


def test_mirror_option(home, monkeypatch):
    monkeypatch.setenv(d4rl.MIRRORS, "http://old")
    assert main(["--version", "--mirror", "http://new/x"]) == 0
    assert d4rl.addresses(ENTRY)[0].startswith("http://new/x/ant_maze_new/")
    assert d4rl.addresses(ENTRY)[2].startswith("http://old/ant_maze_new/")
    assert d4rl.addresses(ENTRY)[4:] == [*ENTRY.urls]
    monkeypatch.setenv(d4rl.MIRRORS, "file:///etc")
    entry = dataclasses.replace(ENTRY, urls=("ftp://x/y",))
    with pytest.raises(UserError, match="begins with http:// or https://"):
        SOURCE.load(entry)
