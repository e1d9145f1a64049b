"""Which data sets are made here, and how; this module needs no simulator.

They follow D4RL's recipes on the same physics, but they are regenerated: not D4RL's own data.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stratdiff.data.d4rl import ANTMAZES, SIZES, VARIANTS
from stratdiff.errors import UserError, nearest

SNAPSHOTS = Path(__file__).parent / "snapshots"
"""Folder of the policies that act in them."""
VERSION = 2
"""Raised whenever a recipe changes, so that stale cached files are made again."""
STITCHED = {"medium-expert": ("medium", "expert"), "mixed": ("random", "medium", "expert")}
"""Variants that are equal parts of others; `mixed` is ours."""


class MadeSet(NamedTuple):
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


def _recipes() -> Iterator[MadeSet]:
    for environment in ("HalfCheetah", "Hopper", "Walker2d"):
        family, env_id = environment.lower(), f"{environment}-v4"
        replay = SIZES[f"{family}-medium-replay-v2"][0]
        other = {"medium-replay": replay, "medium-expert": 2_000_000, "mixed": 300_000}
        for variant in (*VARIANTS, "mixed"):
            name = f"stratdiff/{family}-{variant}"
            yield MadeSet(name, env_id, family, variant, other.get(variant, 1_000_000))
    for variant in ANTMAZES:
        maze = variant.partition("-")[0]
        env_id, name = f"stratdiff/AntMaze-{maze}-v2", f"stratdiff/antmaze-{variant}"
        yield MadeSet(name, env_id, "antmaze", variant, 1_000_000, maze)


RECIPES = {recipe.name: recipe for recipe in _recipes()}


def find(name: str) -> MadeSet:
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
