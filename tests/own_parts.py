"""Parts of somebody's own, named as `own_parts:Class`."""

import dataclasses

from stratdiff.agents.iql import IQL, IQLConfig
from stratdiff.options import Positive
from stratdiff.scores.random import Random
from stratdiff.splits import Ratio


@dataclasses.dataclass(frozen=True)
class OwnConfig(IQLConfig):
    """Options of a base of one's own."""

    stubbornness: Positive = 2.0
    """How long it holds on."""


class OwnBase(IQL):
    name = "own"
    title = "Own"
    options = OwnConfig


@dataclasses.dataclass(frozen=True)
class OwnOptions:
    """Options of a score of one's own."""

    curiosity: Positive = 0.5
    """How much it wants to know."""


class OwnScore(Random):
    name = "own"
    options = OwnOptions


class OwnSplit(Ratio):
    name = "own"
