"""Which data sets are made here, and how; this module needs no simulator.

They follow D4RL's recipes on the same physics, but they are regenerated: not D4RL's own data.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from stratdiff.data.d4rl import VARIANTS
from stratdiff.errors import UserError, nearest

SNAPSHOTS = Path(__file__).parent / "snapshots"
"""Folder of the policies that act in them."""
VERSION = 2
"""Raised whenever a recipe changes, so that stale cached files are made again."""
STITCHED = {"medium-expert": ("medium", "expert"), "mixed": ("random", "medium", "expert")}
"""Variants that are equal parts of others; `mixed` is ours."""

_ENVIRONMENTS = {"halfcheetah": "HalfCheetah-v4", "hopper": "Hopper-v4", "walker2d": "Walker2d-v4"}
# Rows of D4RL's v2 sets.
_REPLAY_ROWS = {"halfcheetah": 202_000, "hopper": 402_000, "walker2d": 302_000}
_ANTMAZE = (
    "umaze",
    "umaze-diverse",
    "medium-play",
    "medium-diverse",
    "large-play",
    "large-diverse",
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one set is made."""

    name: str
    """As the user gives it, `stratdiff/hopper-medium`."""
    env_id: str
    family: str
    variant: str
    rows: int
    maze: str | None = None

    @property
    def code(self) -> int:
        """A number of its own for the random numbers."""
        return int.from_bytes(self.stem.encode()) % (2**61 - 1)

    @property
    def stem(self) -> str:
        """The name without its source."""
        return f"{self.family}-{self.variant}"


def _recipes() -> Iterator[Recipe]:
    for family, env_id in _ENVIRONMENTS.items():
        other = {
            "medium-replay": _REPLAY_ROWS[family],
            "medium-expert": 2_000_000,
            "mixed": 300_000,
        }
        for variant in (*VARIANTS, "mixed"):
            name = f"stratdiff/{family}-{variant}"
            yield Recipe(name, env_id, family, variant, other.get(variant, 1_000_000))
    for variant in _ANTMAZE:
        maze = variant.partition("-")[0]
        env_id, name = f"stratdiff/AntMaze-{maze}-v2", f"stratdiff/antmaze-{variant}"
        yield Recipe(name, env_id, "antmaze", variant, 1_000_000, maze)


RECIPES = {recipe.name: recipe for recipe in _recipes()}


def find(name: str) -> Recipe:
    """The recipe of a `stratdiff/...` name.

    Raises:
        UserError: the name is unknown.
    """
    if name not in RECIPES:
        raise UserError(
            f"unknown data set {name!r}; did you mean {nearest(name, RECIPES)}? `stratdiff data "
            "list` shows all names."
        )
    return RECIPES[name]
