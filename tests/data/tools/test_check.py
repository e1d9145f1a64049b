"""`check` against files that the test makes: right ones match, each kind of wrong one is named."""

import io

import gymnasium
import h5py
import numpy as np
import pointmass
import pytest
from rich.console import Console

from stratdiff.data.tools.check import check
from stratdiff.data.tools.verdict import table
from stratdiff.envs import mazes
from stratdiff.errors import UserError

LOCOMOTION = ("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4")
FAST = {("Hopper-v4", "gravity"), ("Walker2d-v4", "timestep")}


def collect(env_id, steps=400, modify=None, scale=1.0, horizon=150, seed=0, options=None):
    """Random actions; arrays as D4RL keeps them. `modify` gets the MuJoCo model."""
    env = gymnasium.make(env_id, max_episode_steps=horizon)
    data, rng = env.unwrapped.data, np.random.default_rng(seed)
    if modify is not None:
        modify(env.unwrapped.model)
    rows = []
    obs, _ = env.reset(seed=seed, options=options and options())
    for _ in range(steps):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        qpos, qvel = data.qpos.copy(), data.qvel.copy()
        new, reward, terminal, timeout, _ = env.step(np.float32(scale) * action)
        rows.append((obs, action, reward, terminal, timeout and not terminal, qpos, qvel))
        obs = new
        if terminal or timeout:
            obs, _ = env.reset(options=options and options())
    env.close()
    keys = ("observations", "actions", "rewards", "terminals", "timeouts")
    arrays = zip((*keys, "infos/qpos", "infos/qvel"), zip(*rows, strict=True), strict=True)
    return {k: np.asarray(v, bool if k[0] == "t" else np.float32) for k, v in arrays}


@pytest.fixture(scope="module")
def collected():
    return {env_id: collect(env_id) for env_id in LOCOMOTION}


@pytest.fixture
def run(tmp_path):
    """check() of these arrays, written with h5py alone."""

    def run(arrays, checked, **attributes):
        path = tmp_path / "some.hdf5"
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                file[key] = array
            file.attrs.update(attributes)
        return check(path, checked)

    return run


def without_infos(arrays):
    return {k: v for k, v in arrays.items() if not k.startswith("infos")}


def has(report, *words):
    """One finding has all these words."""
    return any(all(word in finding for word in words) for finding in report.findings)


@pytest.mark.parametrize("env_id", LOCOMOTION)
@pytest.mark.parametrize("infos", [True, False])
def test_right_environment_matches(collected, run, env_id, infos):
    arrays = collected[env_id] if infos else without_infos(collected[env_id])
    report = run(arrays, env_id)
    assert report.matches and "matches the data" in report.verdict
    assert report.state_from == ("infos/qpos, infos/qvel" if infos else "observations")
    # Random actions drive Walker2d's velocities to where the observation clips them.
    assert report.replayed > (60 if (env_id, infos) == ("Walker2d-v4", False) else 300)
    assert report.off_share <= 0.005
    assert report.step_error.median < 1e-5 and report.reward_error.median < 1e-6
    assert report.observation_error.max == 0 and 0 < report.floor.median < 1e-5
    assert report.findings == () and report.breaks == ()


def test_error_is_in_standard_deviations(collected, run):
    """One next observation moved by a tenth of a standard deviation of its dimension."""
    arrays = {k: v.copy() for k, v in without_infos(collected["HalfCheetah-v4"]).items()}
    arrays |= {k: collected["HalfCheetah-v4"][k] for k in ("infos/qpos", "infos/qvel")}
    arrays["observations"][101, 8] += 0.1 * arrays["observations"][:-1, 8].std()
    report = run(arrays, "HalfCheetah-v4")
    assert report.step_error.max == pytest.approx(0.1, rel=0.05)
    assert report.observation_error.max == pytest.approx(0.1, rel=0.05)
    assert report.off_share == pytest.approx(1 / report.replayed) and report.wrong_rewards == 0


def test_clipped_velocities_are_skipped(collected, run):
    """Hopper shows no velocity above 10: such a state cannot be rebuilt."""
    arrays = {k: v.copy() for k, v in without_infos(collected["Hopper-v4"]).items()}
    arrays["observations"][::2, 7] = 10
    ends = arrays["terminals"] | arrays["timeouts"]
    assert run(arrays, "Hopper-v4").replayed == (~ends[1:-1:2]).sum()


def test_versions_that_only_reward_differently(run):
    """Hopper-v5 gives no healthy reward for the step in which it falls, -v4 does."""
    arrays = collect("Hopper-v5")
    falls = int(arrays["terminals"].sum())
    report = run(arrays, "Hopper-v4")
    assert report.matches and falls > 5
    assert report.wrong_rewards == falls
    assert has(report, f"{falls} replayed rows", "reward", "Hopper-v5 gives them")
    assert run(arrays, "Hopper-v5").wrong_rewards == 0


@pytest.mark.parametrize(
    "made, checked", [("Walker2d-v5", "Walker2d-v4"), ("Walker2d-v4", "Walker2d-v5")]
)
def test_versions_with_other_physics(run, made, checked):
    """-v4's feet have different friction."""
    report = run(collect(made), checked)
    assert report.matches is False and report.verdict.endswith(f"; {made}'s does.")
    assert report.trials[made] == 0 and report.off_share > 0.1


@pytest.mark.parametrize("scale", [0.5, 0.25])
def test_action_scale(run, scale):
    report = run(collect("HalfCheetah-v4", scale=scale), "HalfCheetah-v4")
    assert not report.matches and f"actions times {scale} it matches" in report.verdict


def test_actions_of_the_wrong_row(collected, run):
    arrays = collected["HalfCheetah-v4"]
    late = arrays | {"actions": np.roll(arrays["actions"], 1, 0)}
    assert "actions of the row after it matches" in run(late, "HalfCheetah-v4").verdict
    early = arrays | {"actions": np.roll(arrays["actions"], -1, 0)}
    assert "actions of the row before it matches" in run(early, "HalfCheetah-v4").verdict


def test_contact_margins_of_newer_mujoco(run):
    """MuJoCo 3.5 adds the margins of two geoms, earlier ones take the larger: here, the double."""

    def double(model):
        model.geom_margin[:] *= 2

    report = run(collect("Hopper-v4", modify=double), "Hopper-v4", mujoco="3.5.0")
    assert not report.matches and "margins of MuJoCo 3.5 and later it matches" in report.verdict
    assert has(report, "made with MuJoCo 3.5.0", "contact margins")


@pytest.mark.parametrize(
    ("env_id", "change"),
    [
        pytest.param(e, c, marks=[] if (e, c) in FAST else pytest.mark.slow)
        for e in LOCOMOTION
        for c in ("gravity", "timestep")
    ],
)
def test_changed_model(run, env_id, change):
    def modify(model):
        if change == "gravity":
            model.opt.gravity[2] *= 1.02
        else:
            model.opt.timestep *= 1.01

    report = run(collect(env_id, modify=modify), env_id, mujoco="3.3.0")
    assert report.matches is False and report.off_share > 0.5
    assert "the model was probably another" in report.verdict and "says MuJoCo 3.3.0" in (
        report.verdict
    )


def test_other_observations_than_the_state_shows(collected, run):
    arrays = collected["HalfCheetah-v4"]
    swapped = np.concatenate([arrays["observations"][:, 8:], arrays["observations"][:, :8]], 1)
    report = run(arrays | {"observations": swapped}, "HalfCheetah-v4")
    assert not report.matches and "another layout" in report.verdict


@pytest.mark.parametrize("env_id", LOCOMOTION)
def test_shuffled_rows(collected, run, env_id):
    order = np.random.default_rng(0).permutation(400)
    report = run({k: v[order] for k, v in collected[env_id].items()}, env_id)
    assert report.matches is False and "not in time order" in report.verdict


@pytest.mark.parametrize("env_id", ["Hopper-v4", "Walker2d-v4"])
def test_missing_flags(collected, run, env_id):
    arrays = {k: v.copy() for k, v in collected[env_id].items()}
    ends = np.flatnonzero(arrays["terminals"])[:3]
    arrays["terminals"][ends] = False
    report = run(arrays, env_id)
    assert report.matches and report.breaks == tuple(ends.tolist())
    assert has(report, "3 rows without an end flag", f"first: {ends[0]}")


def test_terminal_flag_of_an_episode_that_goes_on(collected, run):
    arrays = {k: v.copy() for k, v in collected["HalfCheetah-v4"].items()}
    arrays["terminals"][[50, 70]] = True
    report = run(arrays, "HalfCheetah-v4")
    assert report.wrong_terminals == 2 and has(report, "2 replayed rows", "terminal flag")


def test_scaled_rewards(collected, run):
    arrays = collected["Walker2d-v4"]
    report = run(arrays | {"rewards": 10 * arrays["rewards"] - 5}, "Walker2d-v4")
    assert report.matches and report.wrong_rewards > 300
    assert has(report, "10 times its reward plus -5 gives them")


def test_single_wrong_rewards(collected, run):
    arrays = {k: v.copy() for k, v in collected["HalfCheetah-v4"].items()}
    arrays["rewards"][[10, 20, 30]] += 0.1
    report = run(arrays, "HalfCheetah-v4")
    assert report.wrong_rewards == 3 and has(report, "3 replayed rows with a reward")


def test_duplicates_dead_dimensions_and_long_episodes(collected, run):
    arrays = {k: v.copy() for k, v in without_infos(collected["HalfCheetah-v4"]).items()}
    for key, array in arrays.items():
        arrays[key] = np.concatenate([array, array[20:27]])
    arrays["observations"][:, 3] = 0.5
    arrays["actions"][:, [1, 4]] = 0
    repeated = {k: np.concatenate([v] * 3) for k, v in arrays.items()}
    repeated["timeouts"] = np.arange(3 * 407) == 100  # 1120 rows follow
    report = run(repeated, "HalfCheetah-v4")
    assert report.duplicates == 3 * 407 - 400
    assert (report.dead_observations, report.dead_actions) == ((3,), (1, 4))
    assert report.long_episodes == 1
    assert has(report, "821 rows equal") and has(report, "observation dim", "never change: 3.")
    assert has(report, "action dim", "1, 4") and has(report, "1 episode longer than the 1000")


def test_environment_without_a_simulator(run):
    arrays = pointmass.make_arrays(episodes=20)
    report = run(arrays, pointmass.ENV)
    assert report.matches is None and report.replayed == 0 and "no MuJoCo" in report.verdict
    assert report.breaks == () and report.findings == ()
    ends = np.flatnonzero(arrays["timeouts"])
    arrays["timeouts"][ends[4]] = False
    report = run(arrays, pointmass.ENV)
    assert report.breaks == (ends[4],) and report.long_episodes == 1


def test_observations_that_are_no_state(run):
    arrays = collect("Reacher-v4", horizon=50)
    assert "no infos/qpos" in run(without_infos(arrays), "Reacher-v4").verdict
    assert run(arrays, "Reacher-v4").matches


def reach_out(maze):
    """Starts all over a maze, next to the goal, and at its walls."""
    free = np.argwhere(~mazes.walls(maze))
    rng = np.random.default_rng(0)
    goal = mazes.cell_xy(maze, mazes.cells(maze, "Ge")[0])
    count = 0

    def options():
        nonlocal count
        count += 1
        place = mazes.cell_xy(maze, free[count % len(free)]) + rng.uniform(-1.2, 1.2, 2)
        return {"xy": goal + 0.6 if count % 2 else place, "goal": goal}

    return options


@pytest.mark.slow
def test_antmaze(run):
    arrays = collect("stratdiff/AntMaze-umaze-v2", 500, horizon=12, options=reach_out("umaze"))
    wins = int(arrays["rewards"].sum())
    assert wins > 1
    right = run(without_infos(arrays), "stratdiff/AntMaze-umaze-v2")
    assert right.matches and right.wrong_rewards == 0 and right.findings == ()
    wrong = run(arrays, "stratdiff/AntMaze-medium-v2")
    assert wrong.matches is False and "inside its walls" in wrong.verdict
    assert "stratdiff/AntMaze-umaze-v2's does" in wrong.verdict
    shifted = run(arrays | {"rewards": arrays["rewards"] - 1}, "stratdiff/AntMaze-umaze-v2")
    assert shifted.matches and shifted.wrong_rewards == 500 - wins


def test_environment_is_needed_and_must_fit(collected, run, tmp_path):
    arrays = collected["Hopper-v4"]
    with pytest.raises(UserError, match="does not name its environment; give it with --env"):
        run(arrays, "")
    assert run(arrays, "", env_id="Hopper-v4").env_id == "Hopper-v4"
    with pytest.raises(UserError, match=r"11 observation and 3 action dim.*Walker2d-v4 has 17 and"):
        run(arrays, "Walker2d-v4")
    with pytest.raises(UserError, match="does not exist"):
        check(tmp_path / "none.hdf5", "Hopper-v4")


def test_table_fits_80_columns(run):
    report = run(collect("Walker2d-v5"), "Walker2d-v4")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(report))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= 80
    for word in ("Walker2d-v4", "float32 rounding", "Walker2d-v5's does", "reward"):
        assert word in text


def test_same_seed_same_report(collected, run):
    assert run(collected["Hopper-v4"], "Hopper-v4") == run(collected["Hopper-v4"], "Hopper-v4")
