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
from stratdiff.envs import identity
from stratdiff.envs.guard import Checked, unit_actions
from stratdiff.errors import BadEnvironment, UserError


class Recorder(Checked):
    """Writes every step of `env` into the HDF5 file `path`; close it, or use `with`.

    While it runs, steps are in `path` + ".partial", safe after each episode even if the program
    dies: `Recorder(env, path, append=True)` or `stratdiff data convert` goes on from there.
    `close` makes the file of it; an episode that runs is cut off there, as by a time limit.

    Actions are in the environment's own bounds, and clipped to them before they are taken;
    they are stored in [-1, 1]. Observations are stored flat, in Gymnasium's order, as float32.
    MuJoCo environments also give `infos/qpos` and `infos/qvel`, the state before the action.

    `env_id` is what makes the environment again (default: the id in its spec): give
    "module:Name-v0" for one of your own. Its arguments, time limit and wrappers are kept in the
    file, as Gymnasium's EnvSpec in JSON, unless `env_id` is that of another environment.

    Raises:
        UserError: the file exists and `append` is False, or is of another environment; the spaces
            or what the environment was made with cannot be stored; an action is not finite; `step`
            without `reset`; a full disk.
        BadEnvironment: the environment gave a value that cannot be learned from, such as NaN. It is
            not stored; the episode is cut off before it, and `reset` starts another.
    """

    def __init__(
        self, env: gymnasium.Env, path: str | Path, env_id: str | None = None, append: bool = False
    ) -> None:
        self.env_id = env_id or (env.spec.id if env.spec else "")
        where = f"environment {self.env_id or env!r}"
        super().__init__(env, where, env.observation_space)
        if not env.observation_space.is_np_flattenable:
            raise UserError(
                f"{where} has the observation space {env.observation_space}, which has no fixed "
                "size; wrap the environment so that its observations are arrays."
            )
        obs_dim = gymnasium.spaces.flatdim(env.observation_space)
        sizes = {"observations": obs_dim, "actions": self.bounds.shape[0]}
        state: Any = getattr(env.unwrapped, "data", None)
        self._mujoco = hasattr(state, "qpos") and hasattr(state, "qvel")
        if self._mujoco:
            sizes |= {"infos/qpos": len(state.qpos), "infos/qvel": len(state.qvel)}
        about = {name: metadata.version(name) for name in ("gymnasium", "mujoco", "stratdiff")}
        if spec := identity.write(env, self.env_id):
            about["env_spec"] = spec
        self._log: Log | None = Log(Path(path), sizes, self.env_id, about, append)
        self._obs: np.ndarray | None = None
        self._running = False
        """Whether the last stored row is of an episode that goes on."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; one that runs is cut off."""
        self._cut()
        self._obs = None
        result = self.env.reset(seed=seed, options=options)
        self._remember(self.after_reset(result)[1])
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take and store one step."""
        if self._log is None or self._obs is None:
            raise UserError(
                "Recorder.step was called before reset, after the end of an episode or after "
                "close; call reset first."
            )
        space, given = self.bounds, np.asarray(action)
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
        unit = unit_actions(taken, space)  # first: the environment may write to what it is given
        before = {"observations": self._obs, **self._infos}
        result = self.env.step(taken)
        try:
            obs, reward, terminated, truncated = self.after_step(result)
            self.check_finite(obs, reward)
        except BadEnvironment:
            self._cut()
            self._obs = None
            raise
        self._log.append(**before, actions=unit, rewards=reward, terminals=terminated)
        self._remember(obs)
        self._running = not terminated
        if terminated or truncated:
            self._cut()
            self._obs = None
            self._log.flush()
        return result[0], result[1], terminated, truncated, result[4]

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

    def _remember(self, obs: np.ndarray) -> None:
        """The current observation, and the simulator's state that goes with it."""
        self.check_finite(obs)
        self._obs = obs.astype(np.float32)
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
