"""Single steps of a simulator from the states in a data file."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
from jaxtyping import Bool, Float, Int

from stratdiff.data import hdf5
from stratdiff.data.dataset import Dataset
from stratdiff.envs import mazes
from stratdiff.errors import UserError
from stratdiff.tasks import load_env

Action = Callable[[int], np.ndarray]
"""The action that is taken in a row."""


@dataclasses.dataclass(frozen=True)
class States:
    """What the rows of a file start from and what is done there."""

    source: str
    """Where the states are from: infos/qpos and infos/qvel, or the observations."""
    qpos: Float[np.ndarray, "rows nq"]
    qvel: Float[np.ndarray, "rows nv"]
    usable: Bool[np.ndarray, " rows"]
    """Whether the state of the row is known."""
    actions: Float[np.ndarray, "rows act"]


@dataclasses.dataclass(frozen=True)
class Steps:
    """What the environment gives for some rows."""

    before: Float[np.ndarray, "n obs"] | None
    """Observation of the set state; None: the environment does not tell."""
    after: Float[np.ndarray, "n obs"]
    rewards: Float[np.ndarray, " n"]
    terminals: Bool[np.ndarray, " n"]


def find_states(env: gymnasium.Env, path: str | Path, data: Dataset) -> tuple[States | None, str]:
    """The simulator's states of all rows, or None and why not."""
    obs, base = data.observations, env.unwrapped
    model = getattr(base, "model", None)
    if not isinstance(model, mujoco.MjModel) or not hasattr(base, "set_state"):
        return None, "it is no MuJoCo environment whose state can be set"
    stored = hdf5.read_arrays(path, ("infos/qpos", "infos/qvel"))
    qpos, qvel = stored.get("infos/qpos"), stored.get("infos/qvel")
    shapes = [(len(obs), model.nq), (len(obs), model.nv)]
    if qpos is not None and qvel is not None and [qpos.shape, qvel.shape] == shapes:
        usable = np.isfinite(qpos).all(1) & np.isfinite(qvel).all(1)
        return States("infos/qpos, infos/qvel", qpos, qvel, usable, data.actions), ""
    # Observations that are qpos and qvel without the root's first coordinates, which do not matter
    # on a flat floor.
    hidden = model.nq + model.nv - obs.shape[1]
    if 0 <= hidden <= 2:
        qpos = np.pad(obs[:, : model.nq - hidden], ((0, 0), (hidden, 0)))
        qvel = obs[:, model.nq - hidden :]
        # Some bodies clip velocities to 10 in the observation: the state is lost there.
        usable = ~(np.abs(qvel) == 10).any(1)
        states = States("observations", qpos, qvel, usable, data.actions)
        some = np.flatnonzero(states.usable)[:20]
        before = replay(env, states, some).before
        if before is not None and np.allclose(before, obs[some], rtol=1e-4, atol=1e-4):
            return states, ""
    return None, "the file has no infos/qpos and infos/qvel, and the observations are no state"


def replay(
    env: gymnasium.Env,
    states: States,
    rows: Int[np.ndarray, " n"],
    action: Action | None = None,
    rng: np.random.Generator | None = None,
) -> Steps:
    """One step from every row; with `rng` from states within float32 rounding of it."""
    base = env.unwrapped
    observe = getattr(base, "_get_obs", None) or getattr(base, "_observation", None)
    before, taken = [], []
    for row in rows:
        state = [states.qpos[row], states.qvel[row]]
        if rng is not None:
            state = [x + rng.uniform(-0.5, 0.5, x.shape) * np.spacing(np.abs(x)) for x in state]
        base.set_state(*(x.astype(np.float64) for x in state))  # type: ignore[attr-defined]
        if observe is not None:
            before.append(observe())
        taken.append(env.step(states.actions[row] if action is None else action(int(row)))[:3])
    after, rewards, terminals = zip(*taken, strict=True) if taken else ((), (), ())
    shape = (len(rows), *env.observation_space.shape)  # type: ignore[misc]
    return Steps(
        before=np.array(before).reshape(shape) if observe is not None else None,
        after=np.array(after, np.float64).reshape(shape),
        rewards=np.array(rewards, np.float64),
        terminals=np.array(terminals, bool),
    )


def make_like(env_id: str, like: gymnasium.Env) -> gymnasium.Env | None:
    """The environment, reset; None: it cannot be made here or has another state or other sizes."""
    try:
        env = load_env(env_id)
    except UserError:
        return None
    sizes = [
        (e.observation_space.shape, e.action_space.shape, m.nq, m.nv)
        for e in (env, like)
        if (m := getattr(e.unwrapped, "model", None)) is not None
    ]
    if len(sizes) < 2 or sizes[0] != sizes[1] or not hasattr(env.unwrapped, "set_state"):
        env.close()
        return None
    env.reset(seed=0)
    return env


def inside_walls(env: gymnasium.Env, obs: np.ndarray) -> float:
    """Share of the ant's positions that are inside a maze's walls; 0 where there is no maze."""
    maze = getattr(env.unwrapped, "maze", None)
    if maze not in mazes.MAZES:
        return 0.0
    walls = np.pad(mazes.walls(maze), 1, constant_values=True)
    cell = np.clip(mazes.xy_cell(maze, obs[:, :2]) + 1, 0, np.array(walls.shape) - 1)
    return float(walls[cell[:, 0], cell[:, 1]].mean())
