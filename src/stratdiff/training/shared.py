"""Finished phases on the disk: those of one run, and those shared by runs that compute the same.

The variants of a comparison differ online; their seeds start from the same pre-trained agents. What
a phase and those before it read decides its key, so a run that takes a phase from there ends as one
that trained it.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from safetensors.numpy import save

from stratdiff.config import Config, flat_options
from stratdiff.errors import UserError
from stratdiff.files import (
    check_seal,
    checksum,
    lock_file,
    replacing,
    seal,
    summed,
    unsummed,
    write_text,
    writing,
)
from stratdiff.phases import Phase, StorePhase
from stratdiff.reading import read_json, read_safetensors
from stratdiff.training.state import named

# What every phase reads: where, on which seeds, and how often it logs.
_ALWAYS = (
    *("env", "env_kwargs", "env_spec", "max_episode_steps"),
    *("recipe", "seeds", "log_interval", "normalize_states", "from_run", "validation_fraction"),
    "precision",
)


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a finished phase leaves."""

    arrays: dict[str, np.ndarray]
    """The part's leaves by path."""
    records: list[dict[str, Any]]
    """The phase's log points, `time` counted from its start."""
    seconds: float
    """Wall time that it took."""
    fingerprint: str
    """Of the data."""
    seeds: tuple[int, ...]
    """Those of the arrays' leading axis."""


def options_read(
    phase: Phase | StorePhase, phases: tuple[Phase | StorePhase, ...], config: Config
) -> dict[str, Any]:
    """The options that decide what a phase computes: its own, and those of the ones before it."""
    names, waiting = {*_ALWAYS}, [phase]
    while waiting:
        one = waiting.pop()
        names |= {*one.reads}
        waiting += [p for p in phases if p.name in one.after]
    table = flat_options(config)
    return {
        key: value
        for key, value in table.items()
        if any(key == name or key.startswith(f"{name}.") for name in names)
    }


class FinishedPhases:
    """The finished phases of one run, each in a folder of its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, phase: Phase | StorePhase) -> Path:
        """Where the phase stands or will stand."""
        return self._folder / phase.name

    def read(self, phase: Phase | StorePhase) -> Finished:
        """What the phase left.

        Raises:
            UserError, OSError, ValueError, TypeError, KeyError: it is not there, or damaged.
        """
        folder = self.folder(phase)
        about = unsummed(read_json(folder / "phase.json", "finished phase"))
        sums, seeds = about.pop("arrays"), tuple(about.pop("seeds"))
        arrays, _ = read_safetensors(folder / "arrays.safetensors", "finished phase")
        if {name: checksum(array) for name, array in arrays.items()} != sums:
            raise ValueError(f"the checksum of {str(folder)!r} is another")
        return Finished(arrays, seeds=seeds, **about)

    def save(
        self,
        phase: Phase,
        part: PyTree,
        records: list[dict[str, Any]],
        seconds: float,
        fingerprint: str,
        seeds: tuple[int, ...],
    ) -> None:
        """Keep a finished phase, unless it is there: another run may have been first.

        Raises:
            RunStopped: the folder cannot be written.
        """
        folder = self.folder(phase)
        if folder.is_dir():
            return
        arrays = {name: np.ascontiguousarray(leaf) for name, leaf in named(part).items()}
        about = {
            "records": records,
            "seconds": seconds,
            "fingerprint": fingerprint,
            "seeds": seeds,
            "arrays": {name: checksum(array) for name, array in arrays.items()},
        }
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
        with replacing(folder) as partial:
            partial.mkdir()
            (partial / "arrays.safetensors").write_bytes(save(arrays))
            write_text(partial / "phase.json", json.dumps(summed(about)))


class SharedPhases(FinishedPhases):
    """A folder of finished phases of many runs."""

    def __init__(
        self,
        folder: Path,
        config: Config,
        phases: tuple[Phase | StorePhase, ...],
        fingerprint: str,
        versions: dict[str, str],
    ) -> None:
        super().__init__(folder)
        self._config, self._phases = config, phases
        self._about = {"fingerprint": fingerprint, "versions": versions}

    def folder(self, phase: Phase | StorePhase) -> Path:
        """Where the phase of this run stands or will stand: its key is in the name."""
        about = self._about | options_read(phase, self._phases, self._config)
        text = json.dumps(about, sort_keys=True)
        return self._folder / f"{phase.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @contextlib.contextmanager
    def turn(self, phase: Phase | StorePhase) -> Iterator[None]:
        """Wait while another run is at this very phase.

        Raises:
            RunStopped: the folder cannot be written.
        """
        with contextlib.ExitStack() as stack:
            with writing(self.folder(phase)):
                stack.enter_context(lock_file(self.folder(phase)))
            yield

    def load(self, phase: Phase, template: PyTree) -> tuple[PyTree, Finished] | None:
        """(the part of the state, what the phase left); None: not there, or damaged."""
        try:
            found = self.read(phase)
            return filled(template, found.arrays), found
        except (UserError, OSError, ValueError, TypeError, KeyError):
            # Damaged; it will be trained again.
            shutil.rmtree(self.folder(phase), ignore_errors=True)
            return None


def filled(template: PyTree, arrays: dict[str, np.ndarray]) -> PyTree:
    """A tree like `template`, its leaves taken from `arrays` by their paths.

    Raises:
        KeyError: one is missing.
    """
    leaves = [jax.numpy.array(arrays[name]) for name in named(template)]
    return jax.tree_util.tree_unflatten(jax.tree.structure(template), leaves)


def load_arrays(
    paths: list[Path], shapes: list[tuple[tuple[int, ...], Any]]
) -> list[np.ndarray] | None:
    """What `save_arrays` wrote, of these shapes and types; None: not there, or damaged."""
    found = []
    try:
        for path, (shape, dtype) in zip(paths, shapes, strict=True):
            check_seal(path)
            found.append(np.load(path, allow_pickle=False))
            if (found[-1].shape, found[-1].dtype) != (shape, dtype):
                return None
    except (OSError, ValueError):
        return None
    return found


def save_arrays(paths: list[Path], arrays: list[np.ndarray]) -> None:
    """Write sealed .npy files.

    Raises:
        RunStopped: one cannot be written.
    """
    for path, array in zip(paths, arrays, strict=True):
        with replacing(path) as partial:
            with partial.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            seal(partial)
