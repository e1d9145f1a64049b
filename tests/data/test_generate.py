"""Made sets: D4RL's recipes, whole episodes, the same bits on any number of cores."""

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from stratdiff.data import d4rl, generate
from stratdiff.data.sources import load_dataset
from stratdiff.envs.antmaze import AntMaze, cell_xy, cells, xy_cell
from stratdiff.errors import UserError
from stratdiff.policy import Policy

ROWS = 3000
REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "d4rl_reference.json"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STRATDIFF_CACHE", str(tmp_path))
    return tmp_path


KEYS = ("observations", "actions", "rewards", "terminals", "timeouts", "infos/qpos", "infos/qvel")


def arrays(path, keys=KEYS):
    return d4rl.read_arrays(path, keys)


def test_names_and_sizes_are_d4rls():
    sizes = {name.removeprefix("stratdiff/"): r.rows for name, r in generate.RECIPES.items()}
    assert len(sizes) == 27
    assert sizes["halfcheetah-medium-replay"] == 202_000
    assert sizes["hopper-medium-replay"] == 402_000
    assert sizes["walker2d-medium-replay"] == 302_000
    assert sizes["hopper-medium-expert"] == 2_000_000
    assert sizes["antmaze-large-diverse"] == sizes["walker2d-random"] == 1_000_000


@pytest.mark.parametrize(
    ("name", "rows"), [("hopper-medium-replay", 10_000), ("antmaze-umaze", 6000)]
)
def test_the_same_bits_with_any_number_of_processes(cache, name, rows, monkeypatch):
    keys = (*KEYS, "infos/goal")
    found, spawned, real = [], [], generate._spawn
    monkeypatch.setattr(generate, "_spawn", lambda *a: spawned.append(len(a[2])) or real(*a))
    for jobs in (1, 3):
        path = generate.make(f"stratdiff/{name}", rows, jobs=jobs)
        found.append(arrays(path, keys))
        path.unlink()
    assert found[0].keys() == found[1].keys()
    for key in found[0]:
        np.testing.assert_array_equal(found[0][key], found[1][key])
    assert spawned == [2]  # as many as there are chunks
    assert len(found[0]["rewards"]) == rows
    other = arrays(generate.make(f"stratdiff/{name}", rows, seed=1))
    assert (other["observations"] != found[0]["observations"]).any()
    left = {p.name for p in cache.iterdir()}
    assert {n for n in left if not n.endswith(".lock")} == {
        generate.cached(f"stratdiff/{name}", rows, 1).name
    }


def test_interrupted_generation_goes_on(cache, monkeypatch):
    name, rows = "stratdiff/hopper-random", 10_000
    made, real = [], generate._Part.chunk

    def chunk(self, number, before, tick):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(number)
        return real(self, number, before, tick)

    monkeypatch.setattr(generate._Part, "chunk", chunk)
    with pytest.raises(KeyboardInterrupt):
        generate.make(name, rows, jobs=1)
    assert not list(cache.glob("*.hdf5"))
    assert len(list(cache.glob("*/*.npz"))) == 1
    calls = []
    monkeypatch.setattr(
        generate._Part, "chunk", lambda s, n, b, t: calls.append(n) or real(s, n, b, t)
    )
    again = arrays(generate.make(name, rows, jobs=1))
    assert made == [0] and calls == [1]
    monkeypatch.undo()
    monkeypatch.setenv("STRATDIFF_CACHE", str(cache / "other"))
    fresh = arrays(generate.make(name, rows, jobs=1))
    for key in fresh:
        np.testing.assert_array_equal(again[key], fresh[key])


@pytest.mark.parametrize("name", ["hopper-medium-replay", "walker2d-random", "halfcheetah-medium"])
def test_rows_are_what_the_environment_does(cache, name):
    # Every row again by hand: set its state, take its action, compare.
    path = generate.make(f"stratdiff/{name}", ROWS)
    rows, env_id = arrays(path), d4rl.read_attributes(path)["env_id"]
    env = gymnasium.make(env_id).unwrapped
    env.reset(seed=0)
    ends = (rows["terminals"] + rows["timeouts"]) > 0
    assert ends.any() and not (rows["terminals"] * rows["timeouts"]).any()
    for i in np.random.default_rng(0).choice(ROWS - 1, 60, replace=False):
        env.set_state(rows["infos/qpos"][i], rows["infos/qvel"][i])
        after, reward, terminated, *_ = env.step(rows["actions"][i])
        assert terminated == rows["terminals"][i]
        np.testing.assert_allclose(reward, rows["rewards"][i], atol=1e-3)
        if not ends[i]:
            np.testing.assert_allclose(after, rows["observations"][i + 1], atol=2e-3)


def test_actions_are_the_snapshots_own(cache):
    # Noise is drawn per lane: actions given states have the snapshot's mean and spread.
    path = generate.make("stratdiff/hopper-medium", ROWS)
    rows = arrays(path)
    ladder = Policy.load(generate.SNAPSHOTS / "hopper.safetensors")
    medium = ladder[ladder.metadata["medium"] :][:1]
    mean, log_std = medium._mean_and_log_std(rows["observations"][None])
    pre = np.arctanh(np.clip(rows["actions"].astype(float), -1 + 1e-6, 1 - 1e-6))
    noise = (pre - mean[0]) / np.exp(log_std[0])
    inner = np.abs(rows["actions"]) < 0.99  # saturated actions cannot be undone
    assert abs(np.median(noise[inner])) < 0.3
    expected = medium.sample(
        rows["observations"][None], np.random.default_rng(0).normal(size=(1, ROWS, 3))
    )[0]
    np.testing.assert_allclose(rows["actions"].mean(0), expected.mean(0), atol=0.05)
    np.testing.assert_allclose(rows["actions"].std(0), expected.std(0), rtol=0.06)


def test_uniform_actions(cache):
    actions = arrays(generate.make("stratdiff/walker2d-random", ROWS))["actions"]
    assert np.abs(actions).max() <= 1
    np.testing.assert_allclose(actions.mean(), 0, atol=0.02)
    np.testing.assert_allclose(actions.var(), 1 / 3, rtol=0.03)  # of U(-1, 1)


def test_medium_expert_is_both(cache):
    both = arrays(generate.make("stratdiff/hopper-medium-expert", 2 * ROWS))
    medium, expert = (
        arrays(generate.make(f"stratdiff/hopper-{v}", ROWS)) for v in ("medium", "expert")
    )
    cut = np.flatnonzero(medium["terminals"] + medium["timeouts"])[-1] + 1
    for key in both:
        np.testing.assert_array_equal(both[key], np.concatenate([medium[key][:cut], expert[key]]))


def test_mixed_is_all_three(cache):
    mixed = arrays(generate.make("stratdiff/hopper-mixed", 3 * ROWS + 1))
    parts = [
        arrays(generate.make(f"stratdiff/hopper-{v}", n))
        for v, n in (("random", ROWS), ("medium", ROWS), ("expert", ROWS + 1))
    ]
    cuts = [np.flatnonzero(p["terminals"] + p["timeouts"])[-1] + 1 for p in parts[:2]] + [ROWS + 1]
    for key in mixed:
        whole = np.concatenate([p[key][:cut] for p, cut in zip(parts, cuts, strict=True)])
        np.testing.assert_array_equal(mixed[key], whole)


def test_replay_goes_up_the_ladder(cache):
    dataset = d4rl.read(generate.make("stratdiff/hopper-medium-replay", 25_000))
    returns = dataset.episode_returns
    third = len(returns) // 3
    assert returns[:third].mean() < returns[-third:].mean() / 2
    # The first rows are of uniform actions.
    assert abs(np.var(dataset.actions[:1000]) - 1 / 3) < 0.03


@pytest.mark.parametrize("variant", ["umaze", "umaze-diverse", "medium-play", "large-diverse"])
def test_antmaze_recipe(cache, variant):
    path = generate.make(f"stratdiff/antmaze-{variant}", 4000)
    maze = variant.split("-")[0]
    rows = arrays(path, (*KEYS, "infos/goal"))
    length = 701 if maze == "umaze" else 1001
    np.testing.assert_array_equal(
        np.flatnonzero(rows["timeouts"]), np.arange(length - 1, 4000, length)
    )
    xy, starts = rows["observations"][:, :2], np.arange(0, 4000, length)
    cell = xy_cell(maze, xy[starts])
    off = np.abs(xy[starts] - cell_xy(maze, cell))
    assert off.max() <= 0.1 + 1e-6
    if variant == "umaze":
        assert (cell == cells(maze, "r")).all()
    else:
        assert len(np.unique(cell, axis=0)) > 1
    # Goals of collection: one an episode, in a cell marked for it.
    for start in starts:
        goals = rows["infos/goal"][start : start + length]
        assert (goals == goals[0]).all()
    corner = rows["infos/goal"][starts][:, None] - cell_xy(maze, cells(maze, "gGe"))[None]
    assert ((corner >= 0) & (corner <= 1.5)).all(2).any(1).all()
    # Rewards by D4RL's relabelling, for one goal of evaluation.
    env = AntMaze(maze)
    env.reset(seed=0)
    target = env.draw_goal()
    naive = np.zeros(4000)
    for t in range(3999):
        if not rows["timeouts"][t]:  # rows that are dropped
            naive[t] = np.linalg.norm(xy[t + 1] - target) <= 0.5
    kept = rows["timeouts"] == 0
    kept[-1] = False
    np.testing.assert_array_equal(rows["rewards"][kept], naive[kept])
    np.testing.assert_array_equal(rows["rewards"], rows["terminals"])
    # Most ants make their way.
    assert np.linalg.norm(xy[length - 2] - xy[0]) > 1 or maze == "umaze"


def test_names_that_do_not_exist(cache):
    with pytest.raises(UserError, match="stratdiff/hopper-medium") as error:
        generate.make("stratdiff/hopper-medum")
    assert "'stratdiff/hopper-medum'" in str(error.value)
    with pytest.raises(UserError, match=r"--size is 1; it must be 2"):
        generate.make("stratdiff/hopper-medium", 1)
    with pytest.raises(UserError, match="unknown data set"):
        load_dataset("stratdiff/hopper-medum")


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("STRATDIFF_CACHE", str(blocked / "inside"))
    with pytest.raises(UserError, match="STRATDIFF_CACHE"):
        generate.make("stratdiff/hopper-random", 100)


def test_worker_errors_reach_the_user(cache, monkeypatch):
    # A chunk that cannot be written in a process of its own.
    part = generate._Part(generate.find("stratdiff/hopper-random"), 100_000, 0)
    with pytest.raises(UserError, match="cannot be written"):
        generate._spawn(part, cache / "missing", [[0], [1]], lambda *_: None)


def test_metadata(cache):
    import mujoco

    about = d4rl.read_attributes(generate.make("stratdiff/hopper-random", 500, seed=4))
    assert about["name"] == "stratdiff/hopper-random"
    assert (about["seed"], about["env_id"]) == (4, "Hopper-v4")
    assert about["mujoco"] == mujoco.__version__


def test_shipped_snapshots():
    files = sorted(generate.SNAPSHOTS.glob("*.safetensors"))
    assert [f.stem for f in files] == ["ant", "halfcheetah", "hopper", "walker2d"]
    assert sum(f.stat().st_size for f in files) < 5e6
    assert all(f.stat().st_size < 2e6 for f in files)
    for file, level in zip(files[1:], (40, 44, 62), strict=True):
        about = Policy.load(file).metadata
        scores = about["stochastic_scores"]
        assert len(scores) == len(about["steps"]) >= 20
        assert scores[about["medium"]] == pytest.approx(level, rel=0.1)
        assert scores[about["expert"]] == max(scores)
        json.dumps(about)


def test_runs_that_start_together_make_a_set_once(cache):
    # Threads have their own file descriptions, so the lock holds between them as between processes.
    from concurrent.futures import ThreadPoolExecutor

    made, real = [], generate._make

    def count(*args):
        made.append(args)
        real(*args)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(generate, "_make", count)
        paths = list(
            pool.map(lambda _: generate.make("stratdiff/hopper-random", 500, jobs=1), range(3))
        )
    assert len(set(paths)) == len(made) == 1
