"""Finished offline phases, shared by runs that would compute the same.

The variants of a comparison differ online; their seeds start from the same pre-trained agents. What
a phase reads decides its key, so a run that takes a phase from here ends as one that trained it.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stratdiff.config import Base, Config
from stratdiff.data.lock import locked

# The part of the training state that each phase trains.
PART = {"base": "agent", "behaviour": "behaviour", "energy": "energy"}
# Options that no offline phase reads, and those that a phase does not. All others are in its key,
# so an option that is new makes it a phase of its own.
_ONLINE = {
    *("method", "alignment", "rho", "guidance_scale", "online_steps", "utd", "eval_interval"),
    *("offline_fraction", "online_warmup", "checkpoint_seconds", "save_policies"),
}
_OF_BASE = {
    *("base", "offline_steps", "offline_eval_interval", "eval_episodes", "batch_size"),
    *("reward_scale", *get_args(Base)),
}
_OF_BEHAVIOUR = {"behaviour", "behaviour_steps"}
_OF_ENERGY = {"energy", "energy_steps"}
_IGNORED: dict[str, set[str]] = {
    "base": _OF_BEHAVIOUR | _OF_ENERGY,
    "behaviour": _OF_BASE | _OF_ENERGY,
    "support": _OF_BASE | _OF_ENERGY,
    "energy": set(),
}
# Options of the behaviour model that its training does not read, only what is drawn from it.
_SAMPLING = ("solver_steps", "time_grid", "precision", "support_actions")


@dataclasses.dataclass(frozen=True)
class Phase:
    """What a finished phase leaves."""

    arrays: dict[str, np.ndarray]
    """The part's leaves by path."""
    records: list[dict[str, Any]]
    """The phase's log points, `time` counted from its start."""
    seconds: float
    """Wall time that it took."""


class Pretrained:
    """A folder of finished phases."""

    def __init__(
        self, folder: Path, config: Config, fingerprint: str, versions: dict[str, str]
    ) -> None:
        self._folder, self._config = folder, config
        self._about = {"fingerprint": fingerprint, "versions": versions}

    def folder(self, phase: str) -> Path:
        """Where the phase of this run stands or will stand: its key is in the name."""
        options = dataclasses.asdict(self._config)
        others = {base for base in get_args(Base) if base != self._config.base}
        for name in _ONLINE | _IGNORED[phase] | others:
            del options[name]
        if phase == "behaviour":
            for name in _SAMPLING:
                del options[phase][name]
        about = self._about | options
        text = json.dumps(about, sort_keys=True)
        return self._folder / f"{phase}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @contextlib.contextmanager
    def turn(self, phase: str) -> Iterator[None]:
        """Wait while another run is at this very phase."""
        with locked(self.folder(phase)):
            yield

    def load(self, phase: str, template: PyTree) -> tuple[PyTree, Phase] | None:
        """(the part of the state, what the phase left); None: not there, or damaged."""
        folder = self.folder(phase)
        paths, structure = jax.tree_util.tree_flatten_with_path(template)
        try:
            about = json.loads((folder / "phase.json").read_text())
            found = Phase(load_file(folder / "arrays.safetensors"), **about)
            leaves = [found.arrays[jax.tree_util.keystr(path)] for path, _ in paths]
        except (OSError, ValueError, TypeError, KeyError, SafetensorError):
            shutil.rmtree(folder, ignore_errors=True)  # damaged; it will be trained again
            return None
        part = jax.tree_util.tree_unflatten(structure, map(jax.numpy.array, leaves))
        return part, found

    def save(self, phase: str, part: PyTree, records: list[dict[str, Any]], seconds: float) -> None:
        """Keep a finished phase, unless it is there: another run may have been first."""
        folder = self.folder(phase)
        if folder.is_dir():
            return
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        leaves, _ = jax.tree_util.tree_flatten_with_path(part)
        arrays = {jax.tree_util.keystr(path): np.ascontiguousarray(leaf) for path, leaf in leaves}
        save_file(arrays, partial / "arrays.safetensors")
        about = {"records": records, "seconds": seconds}
        (partial / "phase.json").write_text(json.dumps(about))
        partial.rename(folder)
