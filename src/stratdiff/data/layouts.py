"""Which array of a file says what: the layouts of other libraries, read as D4RL's.

A file is understood where its names and values leave one reading, and refused where they do not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from stratdiff.data.dataset import REQUIRED, blocks, check_finite
from stratdiff.errors import UserError, some

# The names that libraries give to an array; the first one is D4RL's. d3rlpy 1 writes
# `episode_terminals` (d3rlpy/dataset/io.py), JAX-RL `dones_float`, OGBench `masks`
# (ogbench/relabel_utils.py), Minari and Gymnasium `terminations` and `truncations`, robomimic
# `obs`, `next_obs` and `dones` (docs/datasets/overview.md), Stable-Baselines3 `episode_starts`.
NAMES: dict[str, tuple[str, ...]] = {
    "observations": ("observations", "obs", "observation"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminals": ("terminals", "terminations", "terminated", "terminal"),
    "timeouts": ("timeouts", "truncations", "truncated", "timeout"),
    "ends": ("ends", "episode_terminals", "episode_ends", "dones_float"),
    "next_observations": ("next_observations", "next_obs", "next_observation"),
}
ADDED = "(last observations)"
"""The array that marks rows that hold the last observation of an episode and no step."""
ROLES = tuple(NAMES)
"""What `--keys` can say of an array; `ends`: the last rows of trajectories, terminal or not."""
OPTIONAL = ("infos/qpos", "infos/qvel", "infos/goal")
"""Arrays that a file may hold besides D4RL's own."""
# Of these it is not known by their name whether a time limit counts.
_DONES = ("dones", "done")
_MASKS = "masks"
# A new trajectory begins where these are true, or change.
_STARTS = ("episode_starts", "episode_start")
_IDS = ("episode_ids", "episode_id", "episode_index", "traj_ids", "traj_id", "trajectory_id")
# They say where trajectories end in ways that are not read here.
_UNCLEAR = ("is_first", "is_last", "is_terminal", "step_type", "discounts", "valids")
FLAGS = (
    *(name for role in ("terminals", "timeouts", "ends") for name in NAMES[role]),
    *_DONES, _MASKS, *_STARTS, *_IDS, *_UNCLEAR,
)  # fmt: skip
Load = Callable[[str, str], np.ndarray]
"""The whole array of a name in a role, as float32; no role: in any shape."""
# Rows of shuffled or thinned-out transitions: more of them than this are not followed by their
# next observation.
_DISORDER = 0.25


class Table(Mapping[str, Any]):
    """The arrays of a file by name; those of `a,b` are the columns of both, side by side."""

    def __init__(self, names: Sequence[str], get: Callable[[str], Any], load: Load) -> None:
        """`get`: an array of NumPy or h5py, or None; `load`: it as float32, shaped for a role."""
        self._names, self._get, self.whole = names, get, load

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, key: object) -> bool:
        return all(self._get(name) is not None for name in str(key).split(","))

    def __getitem__(self, key: str) -> Any:
        return self.load(key, "") if "," in key else self._get(key)

    def load(self, key: str, role: str) -> np.ndarray:
        """The whole array as float32."""
        if "," not in key:
            return self.whole(key, role)
        parts = [self.whole(name, "") for name in key.split(",")]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def d4rl_layout(
    table: Table,
    where: str,
    source: str,
    keys: Mapping[str, str] | None = None,
    order: bool = False,
) -> tuple[dict[str, np.ndarray], str]:
    """(arrays in D4RL's layout, in words what was not read by D4RL's names).

    `keys`: names by role (see `ROLES`) that the user has
    given, where an empty one leaves the role out; `order`: put rows that are in no time order into
    one, by their next observations. `source`: the file, for the command in a message.

    Raises:
        UserError: an array is missing, or arrays contradict each other.
    """
    return _Reading(table, where, source, dict(keys or {})).arrays(order)


class _Reading:
    """One file that is read."""

    def __init__(self, table: Table, where: str, source: str, keys: dict[str, str]) -> None:
        self.table, self.where, self.source, self.keys = table, where, source, keys
        self.said: list[str] = []
        self.names: dict[str, str] = {}
        for role, key in keys.items():
            if role not in ROLES or (key and key not in table):
                found = f"--keys {role}={key}"
                raise UserError(
                    f"{where} is read with {found}, which must name one of its arrays "
                    f"({some(table)}) for one of {', '.join(ROLES)}."
                )

    def arrays(self, order: bool) -> tuple[dict[str, np.ndarray], str]:
        out: dict[str, np.ndarray] = {}
        for role in ("observations", "actions", "rewards"):
            key = self._key(role)
            if key is None:
                self._missing(role)
            out[role] = self.table.load(key, role)
        self.rows = len(out["rewards"])
        if order:  # to be written again
            there = (key for key in OPTIONAL if key in self.table and self.table[key].ndim == 2)
            out |= {name: self.table.load(name, "") for name in there}
        out["terminals"], timeouts = self._flags()
        if timeouts is not None:
            out["timeouts"] = timeouts
        if ADDED in self.table:
            self._end_at_added(out)
        nexts = self._key("next_observations")
        if nexts is not None and self.rows > 1:
            self._check_next(out, nexts, order)
        return out, "; ".join(self.said)

    def _end_at_added(self, out: dict[str, np.ndarray]) -> None:
        """An episode that was cut off ends with its last observation; after a terminal it goes."""
        added = self._flag(ADDED)
        if added.any():
            out["timeouts"] = added
        keep = ~added | ~np.roll(out["terminals"], 1)
        out |= {name: array[keep] for name, array in out.items()}
        self.rows = len(out["rewards"])

    def _key(self, role: str) -> str | None:
        """The name of a role's array: the user's, else the first known one."""
        if role in self.keys:
            return self.keys[role] or None
        found = next((name for name in NAMES[role] if name in self.table), None)
        if found not in (None, NAMES[role][0]):
            self.said.append(f"`{found}` as {role}")
        return found

    def _flag(self, key: str) -> np.ndarray:
        """An array of flags; floats are true above a half, as always."""
        array = self.table.load(key, "").reshape(-1)
        if key == "episode_ends" and len(array) != self.rows:  # the rows after the last ones
            last = array.astype(np.int64) - 1
            if len(array) and last[-1] == self.rows - 1 and (np.diff(last) > 0).all():
                return np.isin(np.arange(self.rows), last)
        if len(array) != self.rows:
            raise UserError(
                f"{self.where} has arrays of different length (rewards {self.rows}, {key} "
                f"{len(array)}); each needs one row per step."
            )
        check_finite(key, array, self.where)
        return array > 0.5

    def _agreed(self, role: str) -> np.ndarray | None:
        """The flags of a role; refused where two arrays say different things."""
        if role in self.keys:
            return self._flag(self.keys[role]) if self.keys[role] else None
        names = [name for name in NAMES[role] if name in self.table]
        if not names:
            return None
        first, self.names[role] = self._flag(names[0]), names[0]
        for other in names[1:]:
            self._same(first, self._flag(other), names[0], other, [role])
        if names[0] != NAMES[role][0]:
            self.said.append(f"`{names[0]}` as {role}")
        return first

    def _flags(self) -> tuple[np.ndarray, np.ndarray | None]:
        """(terminals, timeouts or None where the file does not mark them)."""
        terminals, timeouts, ends = map(self._agreed, ("terminals", "timeouts", "ends"))
        if not {"terminals", "timeouts", "ends"} & self.keys.keys():
            unclear = [name for name in _UNCLEAR if name in self.table]
            if unclear:
                self._refuse(f"{unclear[0]!r} also says where trajectories end")
            if _MASKS in self.table:
                terminals, ends = self._masks(terminals, timeouts, ends)
            for key, flags in self._boundaries():
                ends = self._merged(ends, flags, key)
            for key in _DONES:
                if key in self.table:
                    terminals, ends = self._dones(key, terminals, timeouts, ends)
        if terminals is None:
            if "ends" not in self.keys and "timeouts" not in self.keys:
                self._missing("terminals")
            terminals = np.zeros(self.rows, bool)
        if ADDED in self.table and self._flag(ADDED).any():
            return terminals, None
        if ends is not None:
            if self.names.get("ends") in (*_STARTS, *_IDS):
                # Nothing follows the last one: if no other array tells, it is complete where it is
                # as long as any.
                lengths = np.diff(np.flatnonzero(ends), prepend=-1)
                ends[-1] = lengths[-1] == lengths.max() if timeouts is None else timeouts[-1]
            implied = ends & ~terminals
            if timeouts is not None:
                first, other = (self.names.get(role, role) for role in ("timeouts", "ends"))
                self._same(timeouts & ~terminals, implied, first, other, ["timeouts"])
            else:
                timeouts = implied
        return terminals, timeouts

    def _masks(
        self, terminals: np.ndarray | None, timeouts: np.ndarray | None, ends: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(terminals, ends): masks are 0 where nothing is bootstrapped."""
        real = ~self._flag(_MASKS)
        if terminals is None or (real == terminals).all():
            return real, ends
        # OGBench's terminals are the ends of trajectories, whatever ended them.
        if timeouts is None and ends is None:
            self.said.append("`masks` as not terminals, and `terminals` as ends of trajectories")
            return real, terminals
        self._same(real, terminals, _MASKS, "terminals", ["terminals"])
        return terminals, ends

    def _boundaries(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, last rows of trajectories) of arrays that say where trajectories start."""
        for key in (*_STARTS, *_IDS):
            if key in self.table:
                if key in _STARTS:
                    new = self._flag(key)[1:]
                else:
                    ids = np.asarray(self.table[key][:]).reshape(-1)
                    if len(ids) != self.rows:
                        self._refuse(f"{key!r} has {len(ids)} values for {self.rows} rows")
                    new = ids[1:] != ids[:-1]
                yield key, np.append(new, True)

    def _merged(self, ends: np.ndarray | None, flags: np.ndarray, key: str) -> np.ndarray:
        if ends is None:
            self.said.append(f"trajectories by `{key}`")
            self.names["ends"] = key
            return flags
        # Whether the last trajectory is complete is not known by its number.
        self._same(ends[:-1], flags[:-1], self.names.get("ends", "ends"), key, ["ends"])
        return ends

    def _dones(
        self,
        key: str,
        terminals: np.ndarray | None,
        timeouts: np.ndarray | None,
        ends: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(terminals, ends) by flags of which it is not said whether a time limit counts."""
        done = self._flag(key)
        if terminals is None:
            if timeouts is not None:
                self.said.append(f"`{key}` without timeouts as terminals")
                return done & ~timeouts, ends
            if ends is not None and not (done & ~ends).any() and (done != ends).any():
                self.said.append(f"`{key}` as terminals")
                return done, ends
            self._refuse(
                f"{key!r} may or may not count time limits as ends", ("terminals", "ends"), key
            )
        if (done == terminals).all():
            return terminals, ends
        both = terminals | (timeouts if timeouts is not None else done)
        self._same(done, both, key, "terminals", ["terminals"])
        if timeouts is None:
            self.said.append(f"`{key}` as ends of trajectories")
            self.names["ends"] = key
            return terminals, done
        return terminals, ends

    def _check_next(self, out: dict[str, np.ndarray], key: str, order: bool) -> None:
        """Compare stored next observations with the next rows; mark, order or refuse."""
        nexts, obs = self.table[key], out["observations"]
        if tuple(nexts.shape) != obs.shape:
            self._refuse(f"{key!r} has shape {tuple(nexts.shape)}, the observations {obs.shape}")
        apart = np.zeros(self.rows, bool)
        for part in blocks(self.rows - 1):
            stored = np.asarray(nexts[part], np.float32)
            after = obs[part.start + 1 : part.stop + 1]
            apart[part] = ~np.isclose(stored, after, 1e-5, 1e-6, equal_nan=True).all(1)
        inside = ~(out["terminals"] | out.get("timeouts", False))
        inside[-1:] = False
        apart &= inside
        count = int(np.count_nonzero(apart))
        if not count:
            return
        if count <= _DISORDER * np.count_nonzero(inside):
            self.said.append(
                f"{count:,} rows as cut off, because the next row is not their `{key}`"
            )
            out["timeouts"] = out.get("timeouts", np.zeros(self.rows, bool)) | apart
            return
        if not order:
            raise UserError(
                f"{self.where} is in no time order: {count:,} of {self.rows:,} rows are not "
                f"followed by their {key!r}; put the rows in order with `stratdiff data convert "
                f"{self.source} OUT.hdf5`."
            )
        self._order(out, np.asarray(nexts[:], np.float32), key)

    def _order(self, out: dict[str, np.ndarray], nexts: np.ndarray, key: str) -> None:
        """Put the rows into trajectories: each row is followed by the one that it leads to."""
        obs = out["observations"]
        place = {row.tobytes(): i for i, row in enumerate(obs)}
        after = [place.get(row.tobytes(), -1) for row in nexts]
        stop = out["terminals"] | out.get("timeouts", False)
        follows = np.where(stop, -1, after)
        linked = follows[follows >= 0]
        if len(place) < len(obs) or len(np.unique(linked)) < len(linked):
            self._refuse("rows have the same observation, so that they cannot be put in order")
        if len(linked) < (1 - _DISORDER) * np.count_nonzero(~stop):
            self._refuse(
                f"only {len(linked):,} of {self.rows:,} rows have a row that follows them; give "
                "the whole trajectories"
            )
        rows: list[int] = []
        last = np.zeros(self.rows, bool)
        for start in np.setdiff1d(np.arange(self.rows), linked).tolist():
            row = start
            while row >= 0:
                rows.append(row)
                row = int(follows[row])
            last[rows[-1]] = True
        if len(rows) < self.rows:
            self._refuse("rows lead in a circle, so that they cannot be put in order")
        out["timeouts"] = last & ~out["terminals"]
        out |= {name: array[rows] for name, array in out.items()}
        self.said.append(f"rows put in order by `{key}`")

    def _same(self, a: np.ndarray, b: np.ndarray, first: str, other: str, roles: list[str]) -> None:
        if (a != b).any():
            row = int(np.flatnonzero(a != b)[0])
            self._refuse(
                f"{first!r} and {other!r} contradict each other at row {row}", roles, first
            )

    def _missing(self, role: str) -> NoReturn:
        raise UserError(
            f"{self.where} has no array {role!r} (found: {some(self.table)}); "
            f"{', '.join(REQUIRED)} are needed; say which array is which with `stratdiff data "
            f"convert {self.source} OUT.hdf5 --keys {role}=NAME`."
        )

    def _refuse(
        self, problem: str, roles: Sequence[str] = ("terminals",), key: str = ""
    ) -> NoReturn:
        choices = " or ".join(f"--keys {role}={key or 'NAME'}" for role in roles)
        raise UserError(
            f"{self.where}: {problem}; say which array marks real ends (terminals), time limits "
            f"(timeouts) or both (ends) with `stratdiff data convert {self.source} OUT.hdf5` and "
            f"{choices}."
        )
