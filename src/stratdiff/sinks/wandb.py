"""Weights & Biases: one run, offline in DIR/wandb or online where an account is configured."""

import contextlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

from stratdiff.errors import UserError
from stratdiff.sinks.base import LogPoint
from stratdiff.sinks.progress import Reporter
from stratdiff.sinks.trackers import PROJECT, Tracker, named, require, run_id

wandb = require("wandb", "0.31")

_STEP = "total_step"


class WandB(Tracker):
    """The `Sink`. The number of a log point is W&B's own step, so none can come twice.

    Offline, opening a run writes it anew from metrics.jsonl. Online, the server goes on with what
    it has: the log points that it lacks follow, and those that it has are not sent again.
    """

    title = "wandb"
    instead = "set WANDB_MODE=offline"

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        super().__init__(directory, config)
        self._run: Any = None
        self._points = 0

    def begin(self) -> None:
        """Open the run by its id.

        Raises:
            UserError: WANDB_MODE asks for a server, and no account is configured.
        """
        name, mode = run_id(self.directory), _mode()
        for old in (self.directory / "wandb").glob(f"offline-run-*-{name}"):
            shutil.rmtree(old)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", self.directory.name),
            id=name,
            dir=str(self.directory),
            config=self.options,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",  # one that the calling program has goes on
            settings=wandb.Settings(silent=True, console="off"),
        )
        if mode == "online":
            Reporter().say(f"{'wandb':<10} {self._run.url}")
        self._run.define_metric(_STEP, hidden=True)
        self._run.define_metric("*", step_metric=_STEP)

    def write(self, point: LogPoint, values: list[tuple[int | None, str, float]]) -> None:
        """A row of the run's history, unless the server has it."""
        self._log(point, named(values))

    def show(self, pictures: dict[str, Path]) -> None:
        """Another row, with an image and a video."""
        media = {"curves": wandb.Image, "video": wandb.Video}
        found = {name: media[name](str(path)) for name, path in pictures.items()}
        self._log(self.last, found)

    def end(self) -> None:
        """Upload what is left; a run that is cut off counts as failed until it is resumed."""
        if self._run is not None:
            run, self._run = self._run, None
            run.finish(exit_code=0 if self.finished else 1)

    def _log(self, point: LogPoint, row: dict[str, Any]) -> None:
        if self._points >= self._run.step:
            self._run.log({_STEP: point.total_step} | row, step=self._points)
        self._points += 1


def _mode() -> str:
    """W&B's own mode, but offline instead of a question for an account."""
    mode: str = wandb.setup().settings.mode
    if mode != "online" or wandb.run is not None:
        return mode
    with contextlib.redirect_stderr(io.StringIO()):  # it says where it found the account
        if wandb.login(prompt=False, verify=False):
            return mode
    if "WANDB_MODE" in os.environ:
        raise UserError(
            f"WANDB_MODE is {os.environ['WANDB_MODE']!r}, but no W&B account is configured; run "
            "`wandb login`, or set WANDB_MODE=offline."
        )
    return "offline"
