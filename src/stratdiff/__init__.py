"""Offline-to-online RL with energy-guided diffusion stratification (arXiv 2511.03828).

The public names are imported when they are first used, so `import stratdiff` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from stratdiff import envs as envs  # registers the package's environments with Gymnasium

__version__ = "0.2.0"

_PUBLIC = {
    "Config": "stratdiff.config",
    "OUTSIDE": "stratdiff.config",
    "make_config": "stratdiff.config",
    "read_config": "stratdiff.config",
    "StratDiff": "stratdiff.algorithm",
    "Dataset": "stratdiff.data.dataset",
    "load_dataset": "stratdiff.data.sources",
    "Recorder": "stratdiff.data.tools.recorder",
    "UserError": "stratdiff.errors",
    "Policy": "stratdiff.policy",
    "trust": "stratdiff.registry",
    "Result": "stratdiff.training.summary",
    "Session": "stratdiff.training.session",
    "evaluate": "stratdiff.training.loop",
    "resume": "stratdiff.training.loop",
    "train": "stratdiff.training.loop",
}
__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    from stratdiff.algorithm import StratDiff as StratDiff
    from stratdiff.config import OUTSIDE as OUTSIDE
    from stratdiff.config import Config as Config
    from stratdiff.config import make_config as make_config
    from stratdiff.config import read_config as read_config
    from stratdiff.data.dataset import Dataset as Dataset
    from stratdiff.data.sources import load_dataset as load_dataset
    from stratdiff.data.tools.recorder import Recorder as Recorder
    from stratdiff.errors import UserError as UserError
    from stratdiff.policy import Policy as Policy
    from stratdiff.registry import trust as trust
    from stratdiff.training.loop import evaluate as evaluate
    from stratdiff.training.loop import resume as resume
    from stratdiff.training.loop import train as train
    from stratdiff.training.session import Session as Session
    from stratdiff.training.summary import Result as Result


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'stratdiff' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
