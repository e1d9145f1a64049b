"""trackio: one run in its local store, or on the Space or server that its variables name."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

from stratdiff.sinks.base import LogPoint
from stratdiff.sinks.trackers import PROJECT, Tracker, named, require, run_id

trackio = require("trackio", "0.43")

_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


class Trackio(Tracker):
    """The `Sink`. Its step is that of all phases together.

    In the local store, opening a run writes it anew from metrics.jsonl. On a server, trackio goes
    on with what is there: log points up to its last step are not sent again.
    """

    title = "trackio"

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        super().__init__(directory, config)
        self._run: Any = None
        self._next_step = 0

    def begin(self) -> None:
        """Open the run by its name, which holds its id."""
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        name = f"{self.directory.name}-{run_id(self.directory)}"
        remote = any(os.environ.get(variable) for variable in _REMOTE)
        if not remote:
            with contextlib.suppress(ValueError):  # there is no such project yet
                for run in trackio.Api().runs(project):
                    if run.name == name:
                        run.delete()
        with contextlib.redirect_stdout(io.StringIO()):
            self._run = trackio.init(
                project=project,
                name=name,
                config=self.options,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self._next_step = self._run._next_step

    def write(self, point: LogPoint, values: list[tuple[int | None, str, float]]) -> None:
        """Log the values, unless the server has them."""
        if point.total_step >= self._next_step:
            self._run.log(named(values), step=point.total_step)

    def show(self, pictures: dict[str, Path]) -> None:
        """Log the image and the video."""
        media = {"curves": trackio.Image, "video": trackio.Video}
        found = {name: media[name](str(path)) for name, path in pictures.items()}
        if found:
            self._run.log(found, step=self.last.total_step)

    def end(self) -> None:
        """Write what is left."""
        if self._run is not None:
            self._run = None
            with contextlib.redirect_stdout(io.StringIO()):
                trackio.finish()
