"""Log any Gymnasium environment into the package's HDF5.

The layout is D4RL's, so that no transition is lost: an episode that ends in a terminal takes one
row a step; one that is cut off takes one row more, with the last observation, zero action and
reward, and `timeouts` True. D4RL's rule drops that row and keeps it as the next observation of the
row before. The next observation of a terminal is not kept: nothing is bootstrapped from it.
"""

from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from stratdiff.data.tools.log import Log
from stratdiff.errors import UserError
from stratdiff.tasks import check_actions, unit_actions


class Recorder(gymnasium.Wrapper):
    """Writes every step of `env` into the HDF5 file `path`; close it, or use `with`.

    While it runs, steps are in `path` + ".partial", safe after each episode even if the program
    dies: `Recorder(env, path, append=True)` or `stratdiff data convert` goes on from there.
    `close` makes the file of it; an episode that runs is cut off there, as by a time limit.

    Actions are in the environment's own bounds, and clipped to them before they are taken;
    they are stored in [-1, 1]. Observations are stored flat, in Gymnasium's order, as float32.
    MuJoCo environments also give `infos/qpos` and `infos/qvel`, the state before the action.

    `env_id` is what makes the environment again (default: the id in its spec): give
    "module:Name-v0" for one of your own. Wrappers between it and the Recorder are not in it.

    Raises:
        UserError: the file exists and `append` is False, or is of another environment; the spaces
            cannot be stored; an action is not finite; `step` without `reset`; a full disk.
    """

    def __init__(
        self, env: gymnasium.Env, path: str | Path, env_id: str | None = None, append: bool = False
    ) -> None:
        super().__init__(env)
        self.env_id = env_id or (env.spec.id if env.spec else "")
        where = f"environment {self.env_id or env!r}"
        self._actions = check_actions(env.action_space, where)
        if not env.observation_space.is_np_flattenable:
            raise UserError(
                f"{where} has the observation space {env.observation_space}, which has no fixed "
                "size; wrap the environment so that its observations are arrays."
            )
        obs_dim = gymnasium.spaces.flatdim(env.observation_space)
        sizes = {"observations": obs_dim, "actions": self._actions.shape[0]}
        state: Any = getattr(env.unwrapped, "data", None)
        self._mujoco = hasattr(state, "qpos") and hasattr(state, "qvel")
        if self._mujoco:
            sizes |= {"infos/qpos": len(state.qpos), "infos/qvel": len(state.qvel)}
        versions = {name: metadata.version(name) for name in ("gymnasium", "mujoco", "stratdiff")}
        self._log: Log | None = Log(Path(path), sizes, self.env_id, versions, append)
        self._obs: np.ndarray | None = None
        self._running = False
        """Whether the last stored row is of an episode that goes on."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; one that runs is cut off."""
        self._cut()
        obs, info = self.env.reset(seed=seed, options=options)
        self._remember(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take and store one step."""
        if self._log is None or self._obs is None:
            raise UserError(
                "Recorder.step was called before reset, after the end of an episode or after "
                "close; call reset first."
            )
        space, given = self._actions, np.asarray(action)
        if given.shape != space.shape or given.dtype.kind not in "fiu":
            raise UserError(
                f"Recorder.step was given an action of shape {given.shape} and type {given.dtype}; "
                f"{space.shape[0]} numbers are needed."
            )
        if not np.isfinite(given).all():
            raise UserError(
                f"Recorder.step was given the action {given.tolist()}; it must be finite, so check "
                "the controller."
            )
        taken = np.clip(given, space.low, space.high).astype(space.dtype)
        before = {"observations": self._obs, **self._infos}
        obs, reward, terminated, truncated, info = self.env.step(taken)
        unit, ended = unit_actions(taken, space), bool(terminated)
        self._log.append(**before, actions=unit, rewards=float(reward), terminals=ended)
        self._remember(obs)
        self._running = not terminated
        if terminated or truncated:
            self._cut()
            self._obs = None
            self._log.flush()
        return obs, reward, ended, bool(truncated), info

    def close(self) -> None:
        """Make the HDF5 file and close the environment."""
        log = self._log
        if log is None:
            return
        try:
            self._cut()
            self._log = None
            log.close()
        finally:
            super().close()

    def _remember(self, obs: Any) -> None:
        """The current observation, flat, and the simulator's state that goes with it."""
        # Copies: the environment may reuse its arrays.
        flat = gymnasium.spaces.flatten(self.env.observation_space, obs)
        self._obs = np.array(flat, np.float32)
        self._infos: dict[str, np.ndarray] = {}
        if self._mujoco:
            data: Any = self.env.unwrapped.data  # type: ignore[attr-defined]
            self._infos = {"infos/qpos": data.qpos.copy(), "infos/qvel": data.qvel.copy()}

    def _cut(self) -> None:
        """End a running episode as by a time limit."""
        if self._running and self._log is not None:
            assert self._obs is not None
            self._log.append(observations=self._obs, timeouts=True, **self._infos)
            self._log.flush()
        self._running = False
