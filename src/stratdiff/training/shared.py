"""Finished phases, shared by runs that would compute the same.

The variants of a comparison differ online; their seeds start from the same pre-trained agents. What
a phase and those before it read decides its key, so a run that takes a phase from here ends as one
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

# What every phase reads: where, on which seeds, and how often it logs.
_ALWAYS = (
    *("env", "env_kwargs", "env_spec", "max_episode_steps"),
    *("recipe", "seeds", "log_interval", "normalize_states"),
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


class SharedPhases:
    """A folder of finished phases."""

    def __init__(
        self,
        folder: Path,
        config: Config,
        phases: tuple[Phase | StorePhase, ...],
        fingerprint: str,
        versions: dict[str, str],
    ) -> None:
        self._folder, self._config, self._phases = folder, config, phases
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
        folder = self.folder(phase)
        paths, structure = jax.tree_util.tree_flatten_with_path(template)
        try:
            about = unsummed(read_json(folder / "phase.json", "shared phase"))
            sums = about.pop("arrays")
            arrays, _ = read_safetensors(folder / "arrays.safetensors", "shared phase")
            found = Finished(arrays, **about)
            leaves = [found.arrays[jax.tree_util.keystr(path)] for path, _ in paths]
            if {name: checksum(array) for name, array in found.arrays.items()} != sums:
                raise ValueError("its checksum is another")
        except (UserError, OSError, ValueError, TypeError, KeyError):
            shutil.rmtree(folder, ignore_errors=True)  # damaged; it will be trained again
            return None
        part = jax.tree_util.tree_unflatten(structure, map(jax.numpy.array, leaves))
        return part, found

    def save(
        self, phase: Phase, part: PyTree, records: list[dict[str, Any]], seconds: float
    ) -> None:
        """Keep a finished phase, unless it is there: another run may have been first.

        Raises:
            RunStopped: the folder cannot be written.
        """
        folder = self.folder(phase)
        if folder.is_dir():
            return
        leaves, _ = jax.tree_util.tree_flatten_with_path(part)
        arrays = {jax.tree_util.keystr(path): np.ascontiguousarray(leaf) for path, leaf in leaves}
        sums = {name: checksum(array) for name, array in arrays.items()}
        about = {"records": records, "seconds": seconds, "arrays": sums}
        with replacing(folder) as partial:
            partial.mkdir()
            (partial / "arrays.safetensors").write_bytes(save(arrays))
            write_text(partial / "phase.json", json.dumps(summed(about)))


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
