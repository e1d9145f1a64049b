"""OGBench's sets against OGBench's own reading of the same file, and its own environment."""

import http.server
import sys
import threading
from functools import partial

import gymnasium
import numpy as np
import pytest
import runs

from stratdiff.data import d4rl, ogbench, sources
from stratdiff.envs.ogbench import MAZES
from stratdiff.errors import UserError
from stratdiff.tasks import find_task, load_env

NAME = "ogbench/antmaze-medium-navigate-singletask-v0"
FILE = "antmaze-medium-navigate-v0.npz"
ENV = "stratdiff/ogbench-antmaze-medium-singletask-v0"
GOAL = (20.0, 20.0)  # cell (6, 6) of the medium maze: 4 * 6 - 4


def make_file(path, lengths=(30, 20, 25), seed=0):
    """A file in OGBench's layout: trajectories that walk past the goal now and then."""
    rng, rows = np.random.default_rng(seed), sum(lengths)
    qpos, qvel = rng.normal(size=(rows, 15)), rng.normal(size=(rows, 14))
    qpos[:, :2] += GOAL + np.linspace(-4, 4, rows)[:, None] * [1, 0]
    qpos[[10, lengths[0] - 1, rows - 1], :2] = GOAL  # one step, and two last rows
    qpos[11, :2] = np.add(GOAL, (0.5, 0))  # exactly on the radius
    qpos[12, :2] = np.add(GOAL, (0.3, 0.41))  # 0.508 away
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        observations=np.concatenate([qpos, qvel], 1).astype(np.float32),
        actions=rng.uniform(-1, 1, (rows, 8)).astype(np.float32),
        terminals=np.isin(np.arange(rows), np.cumsum(lengths) - 1),
        qpos=qpos,
        qvel=qvel,
    )
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(ogbench.FOLDER, raising=False)
    monkeypatch.delenv(d4rl.MIRRORS, raising=False)
    return tmp_path / ".ogbench" / "data"


def test_the_rows_are_those_of_ogbench(folder):
    """OGBench's own program reads the same file: every transition, reward and mask."""
    import ogbench as theirs

    make_file(folder / FILE)
    make_file(folder / FILE.replace(".npz", "-val.npz"), seed=1)
    dataset = sources.load_dataset(NAME)
    _, expected, _ = theirs.make_env_and_datasets(
        NAME.removeprefix("ogbench/"), dataset_path=str(folder / FILE)
    )
    rows = dataset.transitions
    np.testing.assert_array_equal(dataset.observations[rows], expected["observations"])
    np.testing.assert_array_equal(dataset.observations[rows + 1], expected["next_observations"])
    np.testing.assert_array_equal(dataset.actions[rows], expected["actions"])
    np.testing.assert_array_equal(dataset.rewards[rows] - 1, expected["rewards"])
    np.testing.assert_array_equal(dataset.terminals[rows], expected["masks"] == 0)
    assert len(rows) == 75 - 3
    # By hand: on the radius counts, beyond it does not.
    assert [dataset.rewards[i] for i in (9, 10, 11, 12)] == [0, 1, 1, 0]
    assert dataset.env_id == ENV
    stops, returns = dataset.episodes(sparse=True)
    np.testing.assert_array_equal(stops, [29, 49, 74])
    assert returns[0] == 1


@pytest.mark.parametrize(
    "task", ["antmaze-medium-singletask-task3", "pointmaze-teleport-singletask"]
)
def test_the_environment_is_ogbenchs(task):
    """The same states and ends, step by step; the reward is OGBench's plus 1."""
    import ogbench  # noqa: F401

    ours, theirs = load_env(f"stratdiff/ogbench-{task}-v0"), gymnasium.make(f"{task}-v0")
    assert (ours.action_space.low == -1).all() and (ours.action_space.high == 1).all()
    ours.reset(seed=3)
    theirs.reset(seed=3)
    rng = np.random.default_rng(0)
    goal = np.array(ours.unwrapped.cur_goal_xy)
    np.testing.assert_array_equal(goal, theirs.unwrapped.cur_goal_xy)
    place = goal + np.array([0, 3])
    for env in (ours, theirs):
        env.unwrapped.set_xy(place)
    found = []
    for step in range(12):
        if step == 10:
            for env in (ours, theirs):
                env.unwrapped.set_xy(goal)
        action = rng.uniform(-1, 1, ours.action_space.shape).astype(np.float32)
        a, b = ours.step(action), theirs.step(action)
        found.append(a[1:3])
        assert (a[1], *a[2:4]) == (b[1] + 1, *b[2:4])
        if task.startswith("pointmaze"):  # of the ant, what came before the goal differs
            np.testing.assert_array_equal(a[0], b[0])
        if a[2]:
            break
    assert found == [(0.0, False)] * 10 + [(1.0, True)]  # it tells of the state before the action
    ours.close()
    theirs.close()


def test_a_seed_gives_one_start():
    """OGBench draws it from NumPy's global generator, so that a run could not be resumed."""
    env = load_env("stratdiff/ogbench-antmaze-medium-singletask-v0")
    np.random.seed(1)
    first = env.reset(seed=5)[0]
    after = np.random.random()
    np.random.seed(1)
    assert np.random.random() == after  # the global generator is left as it was
    np.testing.assert_array_equal(env.reset(seed=5)[0], first)
    assert not np.array_equal(env.reset(seed=6)[0], first)
    next_ones = [env.reset()[0] for _ in range(2)]
    assert not np.array_equal(*next_ones)
    env.close()


def test_names():
    source = ogbench.OGBench("ogbench/")
    entries = {entry.name: entry for entry in source.entries()}
    assert len(entries) == 29
    assert entries[NAME].urls == (
        "https://rail.eecs.berkeley.edu/datasets/ogbench/antmaze-medium-navigate-v0.npz",
    )
    other = source.find("ogbench/humanoidmaze-giant-stitch-singletask-task4-v0")
    assert other.env_id == "stratdiff/ogbench-humanoidmaze-giant-singletask-task4-v0"
    assert other.urls[0].endswith("/humanoidmaze-giant-stitch-v0.npz")
    for name in (
        "antmaze-medium-navigate-v0",
        "antmaze-giant-explore-singletask-v0",
        "cube-single-play-singletask-v0",
        "antmaze-medium-navigate-singletask-task6-v0",
    ):
        assert source.find(f"ogbench/{name}") is None
        with pytest.raises(UserError, match="unknown data set"):
            sources.load_dataset(f"ogbench/{name}")


def test_the_facts_are_ogbenchs():
    """Names and horizons, from the registry that importing ogbench fills."""
    import ogbench  # noqa: F401

    for maze, facts in MAZES.items():
        for task in ("singletask", "singletask-task5"):
            assert gymnasium.spec(f"{maze}-{task}-v0").max_episode_steps == facts.horizon
            ours = gymnasium.spec(f"stratdiff/ogbench-{maze}-{task}-v0")
            assert ours.max_episode_steps == facts.horizon
    task = find_task(ENV)
    assert (task.obs_dim, task.action_dim, task.recipe) == (29, 8, "antmaze")
    assert (task.score(1.0), task.longest_trajectory) == (100, 1001)
    giant = find_task("stratdiff/ogbench-antmaze-giant-singletask-v0")
    assert (giant.horizon, giant.longest_trajectory) == (1000, 2001)


def test_download(folder, tmp_path, monkeypatch):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    make_file(tmp_path / "server" / FILE)
    handler = partial(Handler, directory=str(tmp_path / "server"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv(d4rl.MIRRORS, f"http://127.0.0.1:{server.server_port}")
        calls = []
        dataset = sources.load(NAME, progress=lambda *call: calls.append(call))
        server.shutdown()
        thread.join()
    size = (tmp_path / "server" / FILE).stat().st_size
    assert calls[-1] == (size, size)
    assert sources.locate(NAME)[0].local(sources.locate(NAME)[1]) == folder / FILE
    assert sources.load(NAME).fingerprint == dataset.fingerprint  # without the server


def test_what_is_refused(folder, monkeypatch):
    folder.mkdir(parents=True)
    np.savez(folder / FILE, observations=np.zeros((3, 29)))
    with pytest.raises(UserError, match=r"no array 'actions', so it is none of OGBench's sets"):
        sources.load(NAME)
    (folder / FILE).write_text("<html>")
    with pytest.raises(UserError, match=r"could not be read as an .npz file"):
        sources.load(NAME)
    make_file(folder / FILE)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ogbench", None)
        patch.setitem(sys.modules, "ogbench.locomaze", None)
        with pytest.raises(UserError, match=r"needs OGBench .*pip install 'stratdiff\[ogbench\]'"):
            sources.load(NAME)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["iql", "calql"])
def test_a_run(folder, tiny, tmp_path, base):
    """Rewards of the data and of the environment go together with the antmaze recipe."""
    import stratdiff

    make_file(folder / FILE, (41,) * 20)
    config = tiny(dataset=NAME, env="", base=base, eval_episodes=1, max_episode_steps=40)
    assert config.recipe == "antmaze"
    result = stratdiff.train(config, tmp_path / "run", reporter=runs.QUIET)
    assert result.summary["environment"] == ENV
    assert result.summary["normalized"]
