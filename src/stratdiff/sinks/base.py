"""What every sink of metrics offers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from stratdiff.registry import Registry


class LogPoint(NamedTuple):
    """Where a run stands when it logs."""

    phase: str
    step: int
    """Steps of the phase that are done."""
    total_step: int
    """Steps of all phases that are done: never falls."""
    seconds: float
    """Training time so far."""


@runtime_checkable
class Sink(Protocol):
    """Takes a run's metrics; made by `cls(directory, config)`.

    `directory` is the run's, `config` its options as a table. A sink that raises `OSError` or
    `UserError` stops the run with that sentence.
    """

    def __init__(self, directory: Path, config: dict[str, Any]) -> None: ...

    def rewind(self, points: int, total_step: int) -> None:
        """Forget all but the first `points` log points: a resumed run logs the others again.

        `total_step` is that of the checkpoint; called once, before the first `log`.
        """
        ...

    def log(self, point: LogPoint, metrics: Mapping[str, np.ndarray]) -> None:
        """One log point; each metric has one value a seed, NaN where there is none."""
        ...

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is finished; `summary` is the content of summary.json."""
        ...

    def close(self) -> None:
        """The process is done with the run, finished or not."""
        ...


SINKS: Registry[Sink] = Registry(
    "--track",
    {
        "tensorboard": "stratdiff.sinks.tensorboard:TensorBoard",
        "wandb": "stratdiff.sinks.wandb:WandB",
        "trackio": "stratdiff.sinks.trackio:Trackio",
        "video": "stratdiff.sinks.video:Film",
    },
    ("rewind", "log", "finish", "close"),
)
