"""Data sets made here from policy snapshots that ship with the package.

They follow D4RL's recipes on the same physics, but they are regenerated: not D4RL's own data.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stratdiff.data import d4rl
from stratdiff.data.dataset import Dataset
from stratdiff.errors import UserError, nearest
from stratdiff.policy import Policy
from stratdiff.tasks import make_env

Progress = Callable[[int, int], None]

SNAPSHOTS = Path(__file__).parent / "snapshots"
# Raised whenever a recipe changes, so that stale cached files are made again.
RECIPE_VERSION = 1
_EPISODES_TOGETHER = 202
_HORIZON = 1000
_ENVIRONMENTS = {"halfcheetah": "HalfCheetah-v4", "hopper": "Hopper-v4", "walker2d": "Walker2d-v4"}
# Episodes of each set; D4RL v2's halfcheetah sets have as many.
_EPISODES = {
    "halfcheetah-random": 1000,
    "halfcheetah-medium-replay": 202,
    "hopper-random": 1000,
    "walker2d-random": 1000,
}
NAMES = tuple(f"stratdiff/{name}" for name in _EPISODES)


def cache_dir() -> Path:
    """Where made sets are kept: $STRATDIFF_CACHE, or stratdiff under the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("STRATDIFF_CACHE") or Path(base) / "stratdiff")


def load(name: str, seed: int = 0, progress: Progress | None = None) -> Dataset:
    """The made set of this name, from the cache or made now.

    Raises:
        UserError: the name is unknown.
    """
    if name not in NAMES:
        raise UserError(
            f"unknown data set {name!r}; did you mean {nearest(name, NAMES)}? Or give the path of "
            "an HDF5 file."
        )
    path = cache_dir() / f"{name.removeprefix('stratdiff/')}-r{RECIPE_VERSION}-s{seed}.hdf5"
    if not path.is_file():
        arrays, env_id = make(name, seed, progress)
        d4rl.write(path, arrays, env_id)
    return d4rl.read(path, name=name)


def make(
    name: str, seed: int = 0, progress: Progress | None = None
) -> tuple[dict[str, np.ndarray], str]:
    """(arrays of a D4RL-format file, environment id) of a set; the same bits for the same seed."""
    short = name.removeprefix("stratdiff/")
    family, variant = short.split("-", 1)
    env_id, episodes = _ENVIRONMENTS[family], _EPISODES[short]
    if variant == "random":
        policy, schedule = None, np.full(episodes, -1)
    else:
        # A replay buffer holds equal stretches of every policy on the way, random actions first.
        policy = Policy.load(SNAPSHOTS / f"{family}.safetensors")
        schedule = np.arange(episodes) * (len(policy) + 1) // episodes - 1
    chunks = []
    for first in range(0, episodes, _EPISODES_TOGETHER):
        which = schedule[first : first + _EPISODES_TOGETHER]
        chunks.append(_collect(env_id, policy, which, seed, first, episodes, progress))
    return {key: np.concatenate([c[key] for c in chunks]) for key in chunks[0]}, env_id


def _collect(
    env_id: str,
    policy: Policy | None,
    schedule: np.ndarray,
    seed: int,
    first: int,
    episodes: int,
    progress: Progress | None,
) -> dict[str, np.ndarray]:
    """One episode per entry of `schedule` (a policy's index; -1: uniform actions), in lockstep."""
    n, horizon = len(schedule), _HORIZON
    envs = [make_env(env_id) for _ in range(n)]
    rngs = [np.random.default_rng([seed, first + i]) for i in range(n)]
    obs = np.stack(
        [env.reset(seed=int(rng.integers(2**31)))[0] for env, rng in zip(envs, rngs, strict=True)]
    )
    action_dim = envs[0].action_space.shape[0]  # type: ignore[index]
    uniform = schedule < 0
    draws = np.stack(
        [
            rng.uniform(-1, 1, (horizon, action_dim))
            if u
            else rng.normal(size=(horizon, action_dim))
            for rng, u in zip(rngs, uniform, strict=True)
        ]
    ).astype(np.float32)
    shape = (n, horizon)
    out = {
        "observations": np.zeros((*shape, obs.shape[1]), np.float32),
        "actions": np.zeros((*shape, action_dim), np.float32),
        "rewards": np.zeros(shape, np.float32),
        "terminals": np.zeros(shape, bool),
        "timeouts": np.zeros(shape, bool),
    }
    groups = [(p, np.flatnonzero(schedule == p)) for p in np.unique(schedule[~uniform])]
    running = np.ones(n, bool)
    lengths = np.zeros(n, int)
    for t in range(horizon):
        action = draws[:, t].copy()
        for p, members in groups:
            assert policy is not None
            one = policy[p : p + 1]
            action[members] = one.sample(obs[None, members], draws[None, members, t])[0]
        for i in np.flatnonzero(running):
            out["observations"][i, t], out["actions"][i, t] = obs[i], action[i]
            obs[i], reward, terminated, truncated, _ = envs[i].step(action[i])
            out["rewards"][i, t] = reward
            out["terminals"][i, t] = terminated
            out["timeouts"][i, t] = truncated and not terminated
            lengths[i] = t + 1
            running[i] = not (terminated or truncated)
        if progress is not None and (t + 1) % 50 == 0:
            progress(first * horizon + n * (t + 1), episodes * horizon)
        if not running.any():
            break
    for env in envs:
        env.close()
    inside = np.arange(horizon)[None] < lengths[:, None]
    return {key: array[inside] for key, array in out.items()}
