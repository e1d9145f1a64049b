"""Offline-to-online RL with energy-guided diffusion stratification (arXiv 2511.03828)."""

from stratdiff.config import Config, make_config, read_config
from stratdiff.data.sources import load_dataset
from stratdiff.data.tools.recorder import Recorder
from stratdiff.errors import UserError
from stratdiff.policy import Policy
from stratdiff.train.run import Result, evaluate, resume, train

__version__ = "0.1.0"

__all__ = [
    "Config",
    "Policy",
    "Recorder",
    "Result",
    "UserError",
    "evaluate",
    "load_dataset",
    "make_config",
    "read_config",
    "resume",
    "train",
]
