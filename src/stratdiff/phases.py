"""Phases as records: what is trained before the first online step, in order."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from stratdiff.data.device import DeviceData

Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Phase:
    """A pre-training phase: `steps` updates of one part of the state on D_off."""

    name: str
    steps: int
    update: Callable[[Any, DeviceData, PyTree, PRNGKeyArray], tuple[PyTree, Metrics]]
    """(state, D_off, what the score stores with each of its rows, key) to (part, metrics)."""
    part: str
    """Where the part that it trains is in the state, as a dotted path."""
    reads: tuple[str, ...]
    """Options that the result depends on: names of options, of tables, or `table.option`."""
    after: tuple[str, ...] = ()
    """Phases whose results it reads."""
    acts: bool = False
    """Whether it changes the policy, so that it is evaluated."""


@dataclasses.dataclass(frozen=True)
class StorePhase:
    """The pass over D_off that computes what the score stores with each row (`Score.store`)."""

    name: str
    reads: tuple[str, ...]
    after: tuple[str, ...] = ()
