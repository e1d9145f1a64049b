"""Mazes against the reference file and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from stratdiff.envs.mazes import MAZES, cell_xy, cells, walls, xy_cell

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "d4rl_reference.json"
NAMES = {
    "umaze": "U_MAZE",
    "medium": "BIG_MAZE",
    "large": "HARDEST_MAZE",
    "eval-umaze": "U_MAZE_EVAL",
    "eval-medium": "BIG_MAZE_EVAL",
    "eval-large": "HARDEST_MAZE_EVAL",
}


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the checkout has no shared folder")
@pytest.mark.parametrize("maze", MAZES)
def test_mazes_are_those_of_the_reference(maze):
    grids = json.loads(REFERENCE.read_text())["mazes"]
    collect, evaluate = (np.array(grids[NAMES[maze] + end], str) for end in ("", "_TEST"))
    np.testing.assert_array_equal(walls(maze), collect == "1")
    np.testing.assert_array_equal(walls(maze), evaluate == "1")
    for marks, grid, mark in (("gG", collect, "g"), ("eG", evaluate, "g"), ("r", collect, "r")):
        np.testing.assert_array_equal(cells(maze, marks), np.argwhere(grid == mark))


def test_coordinates_by_hand():
    # Large: start at (row 1, column 1) is the origin, the evaluation goal at (7, 9).
    np.testing.assert_array_equal(cell_xy("large", np.array([7, 9])), [32, 24])
    np.testing.assert_array_equal(cell_xy("eval-umaze", np.array([3, 3])), [0, 8])
    np.testing.assert_array_equal(xy_cell("large", np.array([33.9, 22.1])), [7, 9])
    np.testing.assert_array_equal(xy_cell("large", np.array([-1.9, 1.9])), [1, 1])
