"""Checkpoints: the whole training state and where the run stands, atomically, the last two kept.

Each has a checksum of every array and of the rest, so damage is found and the one before is taken.
"""

import dataclasses
import functools
import itertools
import logging
import shutil
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from stratdiff.errors import UserError
from stratdiff.files import check_space, checksum, summed, unsummed, writing
from stratdiff.options import from_table
from stratdiff.training.state import named

FOLDER = "checkpoints"

# Raised whenever the content of a checkpoint changes.
FORMAT = 3

# Bytes of a checkpoint beside its arrays.
OVERHEAD = 2**16

# Orbax logs the traceback of what it raises as well, and so does the loop that it leaves to itself.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
logging.getLogger("asyncio").addFilter(lambda record: f"{FOLDER}/" not in record.getMessage())


@dataclasses.dataclass
class Position:
    """Where a run stands: all that is not in the training state."""

    phase: str = "base"
    step: int = 0
    """Steps of the phase that are done."""
    total_steps: int = 0
    """Steps of all phases that are done."""
    log_points: int = 0
    """Log points written so far; what comes later is logged again."""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """Wall time spent, by phase."""
    online_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """Wall time of the online loop: `training.session.Shares`."""
    episodes: list[int] = dataclasses.field(default_factory=list)
    """Current episode's number, by seed."""
    episode_lengths: list[int] = dataclasses.field(default_factory=list)
    """Steps done of the current episode, by seed."""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    """Software that wrote the checkpoint."""
    fingerprint: str = ""
    """The data that the run was started with."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The run's options: those that config.json must have."""
    totals: list[Any] = dataclasses.field(default_factory=list)
    """The arrays of the online `Accumulator` since the last log point; empty: none since."""

    def check(self, phases: Collection[str]) -> None:
        """Check what came from a file.

        Raises:
            ValueError: a number that cannot be, or a phase that the run does not have.
        """
        counts = [self.step, self.total_steps, self.log_points]
        counts += self.episodes + self.episode_lengths
        times = [*self.seconds.values(), *self.online_seconds.values()]
        if not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError(f"a count is no whole number from 0 on: {counts}")
        if not all(isinstance(x, int | float) and 0 <= x < float("inf") for x in times):
            raise ValueError(f"a time is no number from 0 on: {times}")
        if self.phase not in phases:
            raise ValueError(f"it stands in an unknown phase, {self.phase!r}")


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, directory: Path, phases: Collection[str] = ("base", "online")) -> None:
        """`phases`: names of those that a run may stand in.

        Raises:
            RunStopped: the folder cannot be made.
        """
        self.directory, self._phases = directory, phases
        self._where = f"run directory {str(directory.parent)!r}"
        self.damaged: list[Path] = []
        """Checkpoints that `restore` could not read, where they were set aside."""
        _drop_late_words()
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
        with self._writing():
            self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def _writing(self) -> Any:
        """Orbax raises errors of many types, some of them for the checkpoint before."""
        return writing(self.directory, Exception)

    def save(self, state: PyTree, position: Position) -> None:
        """Write a checkpoint, unless no step was done since the last one.

        Returns when the state is copied; the disk follows.

        Raises:
            RunStopped: this one or the one before could not be written.
        """
        if self._manager.latest_step() == position.total_steps:
            return
        # The copy matters: the next update donates the state's buffers.
        host = {name: np.array(leaf, copy=True) for name, leaf in named(state).items()}
        arrays = {name: [_kind(array), checksum(array)] for name, array in host.items()}
        meta = {"format": FORMAT, "position": dataclasses.asdict(position), "arrays": arrays}
        with self._writing():
            # Orbax cleans up badly where the disk fills up while it writes.
            check_space(self.directory, sum(array.nbytes for array in host.values()) + OVERHEAD)
            self._manager.save(
                position.total_steps,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(host), meta=ocp.args.JsonSave(summed(meta))
                ),
                force=True,
            )

    def restore(
        self, template: PyTree, check: Callable[[Position], None] = lambda position: None
    ) -> tuple[PyTree, Position] | None:
        """The newest checkpoint that can be read, as `template`; None: there is none yet.

        `check` raises where the position is not this run's.

        Raises:
            UserError: none can be read, or another version or another config wrote it.
        """
        found = self.newest()
        if found is None:
            return None
        position, arrays, loaded = found
        check(position)
        wanted = named(template)
        for name in wanted.keys() | arrays.keys():
            stored = arrays[name][0] if name in arrays else "nothing"
            expected = _kind(wanted[name]) if name in wanted else "nothing"
            if stored != expected:
                raise UserError(
                    f"{self._where} has a checkpoint that does not fit its config.json (at {name}: "
                    f"found {stored}, expected {expected}); give it back the config.json it was "
                    "made with."
                )
        _, structure = jax.tree_util.tree_flatten(template)
        leaves = [jax.numpy.array(loaded[name]) for name in wanted]
        return jax.tree_util.tree_unflatten(structure, leaves), position

    def newest(self) -> tuple[Position, dict[str, Any], dict[str, Any]] | None:
        """(where the run stands, kind and checksum of each array by name, the arrays); None: none.

        What is damaged is set aside, and the checkpoint before it is taken.

        Raises:
            UserError: none can be read, or another version wrote it.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        unreadable = []
        for step in steps:
            try:
                found = self._read(step, self._where)
                break
            except UserError:
                raise
            except Exception as error:  # whatever damage makes of it
                unreadable.append((step, error))
        else:
            if not unreadable:
                return None
            reason = (str(unreadable[0][1]).strip("'\"") or "damaged").splitlines()[0]
            raise UserError(
                f"{self._where} has no checkpoint that can be read ({reason}); mend its folder "
                "'checkpoints', or remove the run and train again."
            ) from unreadable[0][1]
        for step, _ in unreadable:
            self._set_aside(step)
        return found

    def _set_aside(self, step: int) -> None:
        name = f"damaged-checkpoint-{step}"
        names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
        places = (self.directory.parent / name for name in names)
        aside = next(place for place in places if not place.exists())
        with self._writing():
            (self.directory / str(step)).rename(aside)
        self.damaged.append(aside)
        self._manager.reload()

    def _read(self, step: int, where: str) -> tuple[Position, dict[str, Any], dict[str, Any]]:
        """(where the run stands, kind and checksum of the arrays by name, the arrays).

        Raises:
            UserError: another version wrote it. ValueError, or whatever Orbax raises: damage.
        """
        item = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta: dict[str, Any] = dict(self._manager.restore(step, args=item)["meta"])
        if "crc32" not in meta and meta.get("format") != FORMAT:
            raise UserError(
                f"{where} has a checkpoint of format {meta.get('format')}, this version reads "
                f"format {FORMAT}; resume it with the version that wrote it "
                f"({meta.get('versions')})."
            )
        meta = unsummed(meta)
        position, arrays = from_table(Position, meta["position"]), meta["arrays"]
        position.check(self._phases)
        item = ocp.args.Composite(state=ocp.args.StandardRestore())
        loaded = self._manager.restore(step, args=item)["state"]
        for name in arrays.keys() | loaded.keys():
            if arrays[name] != [_kind(loaded[name]), checksum(np.asarray(loaded[name]))]:
                raise ValueError(f"{name} is damaged")
        return position, arrays, loaded

    def close(self) -> None:
        """Wait for what is being written; what could not be written whole goes.

        Raises:
            RunStopped: it could not be written.
        """
        try:
            with self._writing():
                try:
                    self._manager.wait_until_finished()
                finally:
                    self._manager.close()
        finally:
            for partial in self.directory.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(partial, ignore_errors=True)


def _kind(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


@functools.cache
def _drop_late_words() -> None:
    """Errors leave Orbax's files unfinished: they find their event loop closed, and print that."""
    hook = sys.unraisablehook

    def drop(found: Any) -> None:
        if "Event loop is closed" not in str(found.exc_value):
            hook(found)

    sys.unraisablehook = drop
