"""Checkpoints: the whole training state and where the run stands, atomically, the last two kept."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from stratdiff.errors import UserError

# Raised whenever the content of a checkpoint changes.
FORMAT = 2


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


def _named(tree: PyTree) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.damaged: list[Path] = []
        """Checkpoints that `restore` could not read, where they were set aside."""
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def save(self, state: PyTree, position: Position) -> None:
        """Write a checkpoint, unless no step was done since the last one.

        Returns when the state is copied; the disk follows.
        """
        if self._manager.latest_step() == position.total_steps:
            return
        # The copy matters: the next update donates the state's buffers.
        host = {name: np.array(leaf, copy=True) for name, leaf in _named(state).items()}
        meta = {"format": FORMAT, **dataclasses.asdict(position)}
        self._manager.save(
            position.total_steps,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(host), meta=ocp.args.JsonSave(meta)
            ),
            force=True,
        )

    def restore(self, template: PyTree) -> tuple[PyTree, Position] | None:
        """The newest checkpoint that can be read, as `template`; None: there is none yet.

        Raises:
            UserError: none can be read, or another version or another config wrote it.
        """
        where = f"run directory {str(self.directory.parent)!r}"
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            return None
        unreadable = []
        for step in steps:
            try:
                meta, loaded = self._read(step)
                break
            except (OSError, ValueError, KeyError, TypeError) as error:
                unreadable.append((step, error))
        else:
            reason = str(unreadable[0][1]).strip("'\"").splitlines()[0]
            raise UserError(
                f"{where} has no checkpoint that can be read ({reason}); mend its folder "
                "'checkpoints', or remove the run and train again."
            ) from unreadable[0][1]
        for step, _ in unreadable:
            aside = self.directory.parent / f"damaged-checkpoint-{step}"
            (self.directory / str(step)).rename(aside)
            self.damaged.append(aside)
            self._manager.reload()
        found = meta.pop("format", None)
        if found != FORMAT:
            raise UserError(
                f"{where} has a checkpoint of format {found}, this version reads format {FORMAT}; "
                f"resume it with the version that wrote it ({meta.get('versions')})."
            )
        wanted = _named(template)
        for name in wanted.keys() | loaded.keys():
            found, expected = (
                f"{tree[name].dtype}{list(tree[name].shape)}" if name in tree else "nothing"
                for tree in (loaded, wanted)
            )
            if found != expected:
                raise UserError(
                    f"{where} has a checkpoint that does not fit its config.json (at {name}: found "
                    f"{found}, expected {expected}); give it back the config.json it was made with."
                )
        _, structure = jax.tree_util.tree_flatten(template)
        leaves = [jax.numpy.array(loaded[name]) for name in wanted]
        return jax.tree_util.tree_unflatten(structure, leaves), Position(**meta)

    def _read(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """(what is not in the state, the state's arrays by name)."""
        meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        state = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore())
        )
        return dict(meta["meta"]), state["state"]

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()
