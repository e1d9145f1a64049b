"""What a finished run says of itself: its result, and summary.json."""

import dataclasses
import functools
import hashlib
import math
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from stratdiff.config import Config
from stratdiff.data.dataset import Dataset
from stratdiff.policy import Policy
from stratdiff.sinks.progress import number
from stratdiff.tasks import Task
from stratdiff.training.checkpoint import Position


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """What a finished run left."""

    directory: Path
    config: Config
    summary: dict[str, Any]
    policy: Policy
    """The final policies, one per seed; call it with a raw state for the first seed's action."""

    @property
    def scores(self) -> dict[str, list[float | None]]:
        """Normalised score per seed, before and after fine-tuning; empty without evaluation.

        None where the environment gave a value that is not finite.
        """
        return {when: found["per_seed"] for when, found in self.summary["score"].items()}

    def __repr__(self) -> str:
        means = [f"{when} {number(x['mean'])}" for when, x in self.summary["score"].items()]
        said = ", ".join(means) or "not evaluated"
        return f"Result({str(self.directory)!r}, mean scores {said})"


def summarize(
    config: Config,
    task: Task,
    dataset: Dataset,
    position: Position,
    updates: dict[str, int],
    agent: PyTree,
    records: list[dict[str, Any]],
) -> dict[str, Any]:
    """The content of summary.json.

    `updates` are those of each phase, `agent` the agent's state with the seeds as leading axis. A
    score that was not finite is None, and so is its mean.
    """
    spent, seeds = position.seconds, config.seeds
    scored = [r for r in records if "score" in r]
    pretrained = [r for r in scored if r["phase"] == "base" or r["step"] == 0]
    points = {"before": (pretrained or scored)[-1], "after": scored[-1]} if scored else {}
    returns = dataset.episodes(sparse=config.recipe == "antmaze")[1]
    return {
        "score": {
            when: {"per_seed": r["score"], "mean": finite([np.array(r["score"], float).mean()])[0]}
            for when, r in points.items()
        },
        "normalized": task.reference_returns is not None,
        "seeds": list(seeds),
        "online_steps": position.step,
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "transitions": len(dataset),
            "episodes": len(returns),
            "mean_score": task.score(float(returns.mean())) if len(returns) else None,
        },
        "environment": task.env_id,
        "seconds": {phase: round(s, 2) for phase, s in spent.items()},
        "online_seconds": {part: round(s, 2) for part, s in position.online_seconds.items()},
        "updates_per_second": {
            phase: round(n * len(seeds) / spent[phase], 2)
            for phase, n in updates.items()
            if n and spent.get(phase)
        },
        "parameters_sha256": [_digest(agent, i) for i in range(len(seeds))],
        "versions": versions(),
        "git_revision": git_revision(),
        "device": jax.devices()[0].device_kind,
    }


def finite(values: Iterable[float]) -> list[float | None]:
    """The numbers as JSON can hold them: None for NaN and the infinite."""
    return [float(x) if math.isfinite(x) else None for x in values]


def _digest(tree: PyTree, i: int) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(np.asarray(leaf)[i]).tobytes())
    return digest.hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what decides a run's bits."""
    names = ("stratdiff", "jax", "jaxlib", "numpy", "equinox", "optax", "gymnasium", "mujoco")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}


@functools.cache
def git_revision() -> str | None:
    """The commit of the source tree, where the package runs from one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
