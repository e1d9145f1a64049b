"""Log any Gymnasium environment into the package's HDF5.

The layout is D4RL's, so that no transition is lost: an episode that ends in a terminal takes one
row a step; one that is cut off takes one row more, with the last observation, zero action and
reward, and `timeouts` True. D4RL's rule drops that row and keeps it as the next observation of the
row before. The next observation of a terminal is not kept: nothing is bootstrapped from it.
"""

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
from gymnasium.spaces import Box

from stratdiff.data import d4rl
from stratdiff.errors import UserError

OPTIONAL = ("infos/qpos", "infos/qvel", "infos/goal")


def unit_actions(actions: np.ndarray, space: Box) -> np.ndarray:
    """Actions (..., A) within the bounds of `space`, scaled to [-1, 1], as float32."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if (low == -1).all() and (high == 1).all():
        return actions.astype(np.float32)
    return (2 * (actions.astype(np.float64) - low) / (high - low) - 1).astype(np.float32)


def check_action_space(space: gymnasium.Space, where: str) -> Box:
    """The space, if it is a flat Box with finite bounds.

    Raises:
        UserError: it is not.
    """
    if not isinstance(space, Box) or len(space.shape) != 1 or space.dtype.kind != "f":
        raise UserError(
            f"{where} has the action space {space}; a flat Box of real numbers is needed, so "
            "choose one with continuous actions."
        )
    if not (np.isfinite(space.low) & np.isfinite(space.high) & (space.low < space.high)).all():
        raise UserError(
            f"{where} has the action space {space}; bounds that are finite and not equal are "
            "needed to scale actions to [-1, 1], so give the environment such bounds."
        )
    return space


def finish_rows(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Close the last row of logged arrays, so that D4RL's rule loses no transition.

    D4RL always drops the last row of a file. After a terminal one more row is added, which is no
    trajectory: it repeats the observation, and has no flag.
    """
    if not len(arrays["terminals"]) or not arrays["terminals"][-1]:
        return arrays
    out = {}
    for key, array in arrays.items():
        last = array[-1:]
        repeat = key == "observations" or key.startswith("infos/")
        out[key] = np.concatenate([array, last if repeat else np.zeros_like(last)])
    return out


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
        self,
        env: gymnasium.Env,
        path: str | Path,
        env_id: str | None = None,
        append: bool = False,
    ) -> None:
        super().__init__(env)
        self.env_id = env_id or (env.spec.id if env.spec else "")
        where = f"environment {self.env_id or env!r}"
        self._actions = check_action_space(env.action_space, where)
        if not env.observation_space.is_np_flattenable:
            raise UserError(
                f"{where} has the observation space {env.observation_space}, which has no fixed "
                "size; wrap the environment so that its observations are arrays."
            )
        sizes = {
            "observations": gymnasium.spaces.flatdim(env.observation_space),
            "actions": self._actions.shape[0],
        }
        state: Any = getattr(env.unwrapped, "data", None)
        self._mujoco = hasattr(state, "qpos") and hasattr(state, "qvel")
        if self._mujoco:
            sizes |= {"infos/qpos": len(state.qpos), "infos/qvel": len(state.qvel)}
        versions = {name: metadata.version(name) for name in ("gymnasium", "mujoco", "stratdiff")}
        self._log: _Log | None = _Log(Path(path), sizes, self.env_id, versions, append)
        self._obs: np.ndarray | None = None
        self._running = False
        """Whether the last stored row is of an episode that goes on."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; one that runs is cut off."""
        self._cut()
        obs, info = self.env.reset(seed=seed, options=options)
        self._obs = self._flat(obs)
        self._remember()
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take and store one step."""
        if self._log is None or self._obs is None:
            raise UserError(
                "Recorder.step was called before reset, after the end of an episode or after "
                "close; call reset first."
            )
        space = self._actions
        given = np.asarray(action)
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
        before, infos = self._obs, self._infos
        obs, reward, terminated, truncated, info = self.env.step(taken)
        self._log.append(
            observations=before,
            actions=unit_actions(taken, space),
            rewards=float(reward),
            terminals=bool(terminated),
            timeouts=False,
            **infos,
        )
        self._obs = self._flat(obs)
        self._remember()
        self._running = not terminated
        if terminated or truncated:
            self._cut()
            self._obs = None
            self._log.flush()
        return obs, reward, bool(terminated), bool(truncated), info

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

    def _flat(self, obs: Any) -> np.ndarray:
        # A copy: the environment may reuse its array.
        return np.array(gymnasium.spaces.flatten(self.env.observation_space, obs), np.float32)

    def _remember(self) -> None:
        """The simulator's state that goes with the current observation."""
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


class _Log:
    """PATH.partial: a line of JSON, then one record of fixed size per row."""

    def __init__(
        self,
        path: Path,
        sizes: dict[str, int],
        env_id: str,
        about: dict[str, str],
        append: bool,
    ) -> None:
        self.path, self.partial = path, partial_path(path)
        self.dtype = _record(sizes)
        self.header: dict[str, Any] = {"env_id": env_id, "metadata": about, "sizes": sizes}
        if not append:
            for found, advice in (
                (self.partial, f"or finish it: stratdiff data convert {self.partial} {path}"),
                (path, "or give another path"),
            ):
                if found.exists():
                    raise UserError(
                        f"{str(found)!r} already exists; give append=True to add to it, {advice}."
                    )
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.partial.exists():
            header, rows = read_partial(self.partial)
            self._check(header["env_id"], header["sizes"], self.partial)
        elif path.exists():
            rows = self._rows_of(path)
        else:
            rows = np.zeros(0, self.dtype)
        # Written beside, so that a cut here loses nothing of an older log.
        fresh = self.partial.with_name(self.partial.name + ".new")
        with fresh.open("wb") as file:
            file.write(json.dumps(self.header).encode() + b"\n")
            file.write(rows.tobytes())
        os.replace(fresh, self.partial)
        self._file = self.partial.open("ab")

    def _check(self, env_id: str, sizes: dict[str, int], where: Path) -> None:
        for what, found, expected in (
            ("environment", env_id, self.header["env_id"]),
            ("sizes", sizes, self.header["sizes"]),
        ):
            if found != expected:
                raise UserError(
                    f"{str(where)!r} was recorded with {what} {found!r}, not {expected!r}; append "
                    "to a file of the same environment, or give another path."
                )

    def _rows_of(self, path: Path) -> np.ndarray:
        """The rows of a finished file, each trajectory closed."""
        d4rl.read(path)  # refuses what is damaged
        with h5py.File(path, "r") as file:
            keys = [k for k in (*_FLAGS, "observations", "actions", *OPTIONAL) if k in file]
            arrays = {key: np.asarray(file[key]) for key in keys}
            env_id = str(file.attrs.get("env_id", ""))
        sizes = {k: a.shape[1] for k, a in arrays.items() if k not in _FLAGS}
        self._check(env_id, sizes, path)
        rows = np.zeros(len(arrays["rewards"]), self.dtype)
        for key, array in arrays.items():
            rows[key] = array.reshape(rows[key].shape)
        unflagged = not (rows["terminals"][-1] or rows["timeouts"][-1])
        if unflagged and len(rows) > 1 and rows["terminals"][-2]:
            rows = rows[:-1]  # what `finish_rows` added
        return _closed(rows)

    def append(self, **row: Any) -> None:
        record = np.zeros(1, self.dtype)
        for key, value in row.items():
            record[key] = value
        self._guard(self._file.write, record.tobytes())

    def flush(self) -> None:
        self._guard(self._file.flush)

    def close(self) -> None:
        """Make the HDF5 file; without any row there is none."""
        self._guard(self._file.close)
        finish(self.partial, self.path)

    def _guard(self, call: Any, *arguments: Any) -> None:
        try:
            call(*arguments)
        except OSError as error:
            raise UserError(
                f"{str(self.partial)!r} could not be written ({error}); make room on the disk, "
                f"then keep what is in it: stratdiff data convert {self.partial} {self.path}."
            ) from error


_FLAGS = ("rewards", "terminals", "timeouts")


def _record(sizes: dict[str, int]) -> np.dtype:
    columns: list[Any] = [(key, "<f4", (size,)) for key, size in sizes.items()]
    return np.dtype([*columns, ("rewards", "<f4"), ("terminals", "?"), ("timeouts", "?")])


def _closed(rows: np.ndarray) -> np.ndarray:
    """The rows, the last one marked as a timeout unless its trajectory has an end."""
    rows = rows.copy()
    if len(rows) and not rows["terminals"][-1]:
        rows["timeouts"][-1] = True
    return rows


def partial_path(path: str | Path) -> Path:
    """Where a Recorder of `path` logs while it runs."""
    return Path(f"{path}.partial")


def read_partial(partial: Path) -> tuple[dict[str, Any], np.ndarray]:
    """(header, whole rows) of a log; a step that was cut off while it was written is left out.

    Raises:
        UserError: it is no such log.
    """
    try:
        with partial.open("rb") as file:
            header = json.loads(file.readline())
            header = {key: header[key] for key in ("env_id", "metadata", "sizes")}
            dtype = _record(header["sizes"])
            content = file.read()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{str(partial)!r} is no log of a Recorder ({error}); give the .partial file that the "
            "Recorder left."
        ) from error
    return header, _closed(np.frombuffer(content, dtype, len(content) // dtype.itemsize))


def finish(partial: Path, path: Path) -> None:
    """Make the HDF5 file of a log and remove the log.

    Raises:
        UserError: it is no log, or the file cannot be written (the log is kept).
    """
    header, rows = read_partial(partial)
    if len(rows):
        names = rows.dtype.names or ()
        arrays = finish_rows({key: np.ascontiguousarray(rows[key]) for key in names})
        d4rl.write(path, arrays, header["env_id"], header["metadata"])
    partial.unlink()
