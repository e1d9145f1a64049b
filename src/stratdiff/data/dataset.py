"""A logged data set in memory: flat arrays, D4RL's transition rule, returns, validation.

Sets may fill most of the memory, so what is computed of all rows is computed block by block.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from stratdiff.cpu import aligned_empty
from stratdiff.errors import UserError, some

REQUIRED = ("observations", "actions", "rewards", "terminals")
"""The arrays that a data set needs; with `timeouts`, it also knows where episodes were cut off."""
BLOCK = 65_536


def blocks(rows: int) -> Iterator[slice]:
    """The rows 0 to `rows` - 1 in slices of at most `BLOCK`."""
    return (slice(first, min(first + BLOCK, rows)) for first in range(0, rows, BLOCK))


@dataclasses.dataclass(frozen=True, repr=False)
class Dataset:
    """Steps of consecutive trajectories. The transition of row i leads to `observations[i + 1]`."""

    name: str
    env_id: str | None
    """The environment it was collected in, where known."""
    observations: Float[np.ndarray, "rows obs"]
    actions: Float[np.ndarray, "rows act"]
    rewards: Float[np.ndarray, " rows"]
    """As the environment gave them."""
    terminals: Bool[np.ndarray, " rows"]
    """True where the environment really ended."""
    ends: Bool[np.ndarray, " rows"]
    """True at the last row of a trajectory: terminal or time limit."""
    transitions: Int[np.ndarray, " n"]
    """Rows that are transitions to learn from."""
    metadata: Mapping[str, str | int | float] = dataclasses.field(default_factory=dict)
    """What its file says besides: `mujoco` (the version it was made with), `author` ..."""

    def __repr__(self) -> str:
        rows, obs = self.observations.shape
        return (
            f"Dataset({self.name!r}: {rows:,} rows, {len(self):,} transitions, "
            f"{np.count_nonzero(self.ends):,} episodes, {obs} observations, "
            f"{self.actions.shape[1]} actions, from {self.env_id or 'an unnamed environment'})"
        )

    @property
    def mujoco(self) -> str | None:
        """The MuJoCo version it was made with, where known."""
        version = self.metadata.get("mujoco")
        return version if isinstance(version, str) else None

    def __len__(self) -> int:
        return len(self.transitions)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all arrays, 16 hex digits."""
        digest = hashlib.sha256()
        for field in ("observations", "actions", "rewards", "terminals", "ends", "transitions"):
            array = getattr(self, field)
            # Row numbers are hashed as int64 whatever integer type holds them.
            dtype = np.dtype(np.int64) if field == "transitions" else array.dtype
            digest.update(f"{field}{dtype}{array.shape}".encode())
            for part in blocks(len(array)):
                digest.update(np.ascontiguousarray(array[part], dtype).data)
        return digest.hexdigest()[:16]

    @functools.cached_property
    def episode_returns(self) -> Float[np.ndarray, " episodes"]:
        """Undiscounted return of every complete trajectory, in order."""
        return self.episodes()[1]

    def episodes(
        self, sparse: bool = False
    ) -> tuple[Int[np.ndarray, " episodes"], Float[np.ndarray, " episodes"]]:
        """(last rows, undiscounted returns) of the complete episodes, in order.

        D4RL's AntMaze collector goes on at the goal, where every row is a terminal. With `sparse`
        an episode of such a set is one of the collector's, up to a time limit. It returns 1 if it
        has been at the goal, as one of the environment would.
        """
        stops = np.flatnonzero(self.ends)
        if sparse and (self.terminals[1:] & self.terminals[:-1]).any():
            # The rows that D4RL's rule drops are the time limits.
            limits = stops[~np.isin(stops, self.transitions)]
            stops = limits if len(limits) else stops
        total = np.zeros(len(self.rewards) + 1)
        total[1:] = self.rewards
        np.cumsum(total, out=total)
        starts = np.concatenate([[0], stops[:-1] + 1])
        returns = total[stops + 1] - total[starts] if len(stops) else np.zeros(0)
        return stops, (returns > 0).astype(float) if sparse else returns

    def line(self, sparse: bool = False) -> str:
        """What it holds, in a line, so that a file that is read wrongly is noticed."""
        stops, returns = self.episodes(sparse)
        mean = f", mean return {returns.mean():.4g}" if len(stops) else ""
        note = self.metadata.get("read")
        return (
            f"{len(self):,} transitions, {len(stops):,} complete trajectories{mean}"
            f"{f' (read {note})' if note else ''}"
        )

    @functools.cached_property
    def added(self) -> Int[np.ndarray, " n"]:
        """Rows that only hold the state at which an episode was cut off: no step, all zeros."""
        last = np.flatnonzero(self.ends & ~self.terminals)
        last = last[~np.isin(last, self.transitions)]
        return last[(self.actions[last] == 0).all(1) & (self.rewards[last] == 0)]

    @functools.cached_property
    def longest(self) -> int:
        """Rows of the longest trajectory, one without an end included."""
        stops = np.flatnonzero(self.ends)
        return int(np.diff([-1, *stops, len(self.ends) - 1]).max(initial=0))

    def hold_out(self, fraction: float) -> tuple["Dataset", "Dataset | None"]:
        """(the set without a share of its trajectories, those); (itself, None) for 0.

        Which trajectories these are depends on the set and on `fraction` alone.

        Raises:
            UserError: one of the two would have no transition.
        """
        if fraction == 0:
            return self, None
        # Rows after the last end belong to a trajectory that was cut off.
        number = np.zeros(len(self.ends), np.int64)
        np.cumsum(self.ends[:-1], out=number[1:])
        whole = np.unique(number[self.transitions])  # not the row that closes a file
        n = len(whole)
        order = np.random.default_rng(0).permutation(whole)
        held = np.isin(number, order[: max(round(fraction * n), 1)])
        parts = self._rows(~held), self._rows(held)
        if not all(map(len, parts)):
            raise UserError(
                f"data set {self.name!r} has {n:,} trajectories, of which --validation-fraction "
                f"{fraction:g} leaves no transition on one side; give another share, or 0."
            )
        return parts

    def _rows(self, kept: Bool[np.ndarray, " rows"]) -> "Dataset":
        """The set with these rows alone, whole trajectories; one row more closes it."""
        where = np.flatnonzero(kept)
        where = np.append(where, where[-1:])
        # A transition needs the row after it, which a terminal only repeats.
        is_transition = np.zeros(len(kept), bool)
        is_transition[self.transitions] = True
        followed = np.append(kept[1:], False) | self.terminals
        last = np.zeros(len(where), bool)
        last[-1:] = True
        transitions = np.flatnonzero((is_transition & followed)[where] & ~last)
        return dataclasses.replace(
            self,
            observations=self.observations[where],
            actions=self.actions[where],
            rewards=self.rewards[where],
            terminals=self.terminals[where] & ~last,
            ends=self.ends[where] & ~last,
            transitions=transitions.astype(np.int32),
        )

    def normalizer(self) -> tuple[Float[np.ndarray, " obs"], Float[np.ndarray, " obs"]]:
        """Mean and standard deviation (at least 1e-3) of the states of all transitions."""
        n, size = len(self), self.observations.shape[1]
        mean, variance = np.zeros(size), np.zeros(size)
        for part in blocks(n):
            mean += self.observations[self.transitions[part]].sum(0, dtype=np.float64) / n
        for part in blocks(n):
            variance += np.square(self.observations[self.transitions[part]] - mean).sum(0) / n
        std = np.maximum(np.sqrt(variance), 1e-3)
        return mean.astype(np.float32), std.astype(np.float32)


def returns_to_go(
    rewards: Float[np.ndarray, " rows"],
    ends: Bool[np.ndarray, " rows"],
    discount: float,
    sparse: bool = False,
    successes: Bool[np.ndarray, " rows"] | None = None,
) -> Float[np.ndarray, " rows"]:
    """Discounted return from every row to the end of its trajectory: V_ref of Cal-QL.

    A time limit ends a trajectory and bootstraps nothing. Rows after the last end belong to a
    trajectory that was cut off: their return is unknown, -inf. With `sparse` (AntMaze), a
    trajectory without any row of `successes` gets r / (1 - γ) at every row, the return of failing
    for ever. See docs/method.md, section 6, and arXiv 2303.05479.

    Added up in float64, returned in the type of `rewards`.
    """
    out = np.full(len(rewards), -np.inf, rewards.dtype)
    stops = np.flatnonzero(ends)
    starts = np.concatenate([[0], stops[:-1] + 1]) if len(stops) else stops
    lengths = stops - starts + 1
    # All trajectories step back together, so the loop is as long as the longest trajectory.
    value = np.zeros(len(stops))
    for back in range(lengths.max(initial=0)):
        active = lengths > back
        rows = stops[active] - back
        value[active] = rewards[rows] + discount * value[active]
        out[rows] = value[active]
    if sparse:
        assert successes is not None, "sparse returns need the rows of success"
        for part in map(slice, starts, stops + 1):
            if not successes[part].any():
                out[part] = rewards[part] / (1 - discount)
    return out


def transition_rows(
    terminals: Bool[np.ndarray, " rows"],
    timeouts: Bool[np.ndarray, " rows"] | None,
    horizon: int | None,
) -> tuple[Bool[np.ndarray, " rows"], Int[np.ndarray, " n"]]:
    """D4RL's `qlearning_dataset` rule: (last rows of trajectories, rows that are transitions).

    A row with a timeout is dropped, a terminal one kept, the last row of the file always dropped.
    Without `timeouts` the row where D4RL's step counter reaches horizon - 1 is dropped; after a
    terminal that counter starts at 1, not 0 (d4rl/__init__.py, `qlearning_dataset`). Trajectories
    end where the true count does.
    """
    if timeouts is None:
        dropped = _count_out(terminals, horizon, after_terminal=1)
        timeouts = _count_out(terminals, horizon, after_terminal=0)
    else:
        dropped = timeouts
    rows = np.flatnonzero(~dropped[:-1])
    transitions = aligned_empty(rows.shape, np.int32)
    transitions[:] = rows
    return terminals | timeouts, transitions


def _count_out(
    terminals: Bool[np.ndarray, " rows"], horizon: int | None, after_terminal: int
) -> Bool[np.ndarray, " rows"]:
    """Rows at which a step counter reaches horizon - 1; it restarts at 0 after such a row."""
    n = len(terminals)
    out = np.zeros(n, bool)
    if horizon and n:
        start, counter = 0, 0
        for stop in [*np.flatnonzero(terminals).tolist(), n - 1]:
            out[start + horizon - 1 - counter : stop + 1 : horizon] = True
            start, counter = stop + 1, 0 if out[stop] else after_terminal
    return out


def finish_rows(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Close the last row of logged arrays, so that D4RL's rule loses no transition.

    D4RL always drops the last row of a file. After a terminal one more row is added that belongs to
    no trajectory: it repeats the observation and has no flag.
    """
    if not len(arrays["terminals"]) or not arrays["terminals"][-1]:
        return arrays
    out = {}
    for key, array in arrays.items():
        last = array[-1:]
        repeat = key == "observations" or key.startswith("infos/")
        out[key] = np.concatenate([array, last if repeat else np.zeros_like(last)])
    return out


def from_arrays(
    name: str,
    arrays: Mapping[str, np.ndarray],
    env_id: str | None = None,
    horizon: int | None = None,
    metadata: Mapping[str, str | int | float] | None = None,
    where: str = "",
) -> Dataset:
    """The data set of float32 arrays in D4RL's layout; `horizon`: where there are no `timeouts`.

    `observations` (N, S), `actions` (N, A) in [-1, 1], `rewards`, `terminals`, `timeouts` (N,).
    `where`: what error messages call the arrays.

    Raises:
        UserError: an array is missing or they differ in length; or see `validate`.
    """
    where = where or f"data set {name!r}"
    missing = [key for key in REQUIRED if key not in arrays]
    if missing:
        raise UserError(
            f"{where} has no array {missing[0]!r} (found: {some(arrays)}); "
            f"{', '.join(REQUIRED)} are needed."
        )
    for key in (*REQUIRED, "timeouts"):
        if key in arrays:
            _check_shape(key, arrays[key], where)
    if len({len(array) for array in arrays.values()}) > 1:
        found = ", ".join(f"{key} {len(array)}" for key, array in arrays.items())
        raise UserError(
            f"{where} has arrays of different length ({found}); each needs one row per step."
        )
    flags = {key: arrays[key] for key in ("terminals", "timeouts") if key in arrays}
    for key, flag in flags.items():
        check_finite(key, flag, where)
        flags[key] = flag > 0.5
    ends, transitions = transition_rows(flags["terminals"], flags.get("timeouts"), horizon)
    steps = arrays["observations"], arrays["actions"], arrays["rewards"]
    dataset = Dataset(name, env_id, *steps, flags["terminals"], ends, transitions, metadata or {})
    validate(dataset, where)
    return dataset


def _check_shape(key: str, array: Any, where: str) -> None:
    wide = key in ("observations", "actions")
    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", type(array).__name__)
    fits = isinstance(array, np.ndarray) and array.dtype.kind in "fiub" and array.ndim == 1 + wide
    if not fits or 0 in array.shape[1:]:
        raise UserError(
            f"{where}: {key!r} has values of {dtype} and the shape {shape}; a NumPy array of "
            f"numbers with the shape ({'rows, size' if wide else 'rows,'}) is needed."
        )


def validate(dataset: Dataset, where: str = "") -> None:
    """Check what training relies on; `where`: what error messages call the set.

    Raises:
        UserError: the set is empty, a value is not finite or an action is outside [-1, 1].
    """
    where = where or f"data set {dataset.name!r}"
    if len(dataset) == 0:
        raise UserError(
            f"{where} has {len(dataset.rewards)} rows and no transition; at least two consecutive "
            "rows of a trajectory are needed."
        )
    for field in ("observations", "actions", "rewards"):
        check_finite(field, getattr(dataset, field), where)
    count, first = _find(dataset.actions, lambda block: np.abs(block) > 1 + 1e-5)
    if count:
        raise UserError(
            f"{where}: {count} action values are outside [-1, 1], the first "
            f"{float(dataset.actions[first]):g} at index {first}; scale the actions to [-1, 1]."
        )


def check_finite(field: str, array: np.ndarray, where: str) -> None:
    """Refuse values that are NaN or infinite.

    Raises:
        UserError: there are some.
    """
    count, first = _find(array, lambda block: ~np.isfinite(block))
    if count:
        raise UserError(
            f"{where}: {field} holds {count} values that are NaN or infinite, "
            f"the first at index {first}; all must be finite, so repair or drop those rows."
        )


def _find(
    array: np.ndarray, test: Callable[[np.ndarray], np.ndarray]
) -> tuple[int, tuple[int, ...]]:
    """How many values pass the test, and the index of the first."""
    count, first = 0, ()
    for part in blocks(len(array)):
        found = test(array[part])
        if not count and found.any():
            row, *rest = (int(i) for i in np.argwhere(found)[0])
            first = (part.start + row, *rest)
        count += int(np.count_nonzero(found))
    return count, first
