"""What the report calls base algorithms and scores, and names that it can show."""

from typing import Any

from stratdiff.agents.base import AGENTS
from stratdiff.scores.base import SCORES

TITLES = {name: kinds.find(name).title for kinds in (AGENTS, SCORES) for name in kinds.names()}


def clean(name: Any, longest: int = 120) -> str:
    """A name that can be shown: at most `longest` characters, none of them a control character.

    Raises:
        ValueError: it is not a string.
    """
    if not isinstance(name, str):
        raise ValueError(f"expected a name, got {name!r}")
    return "".join(c if c.isprintable() else "?" for c in name)[:longest] or "?"


def title(name: str) -> str:
    """The title of a base algorithm or score; of one from outside, `module:Name`, its `Name`."""
    return TITLES.get(name) or clean(name.rpartition(":")[2])
