"""D4RL's mazes as grids of cells: walls, start and goal cells, and their places in metres.

From Farama-Foundation/D4RL at 89141a6 (d4rl/locomotion). It needs no simulator.
"""

import numpy as np
from jaxtyping import Bool

CELL = 4.0
"""Side of a cell in metres."""
SUCCESS_RADIUS = 0.5
"""Distance to the goal, in metres, at which it counts as reached."""
HORIZONS = {"umaze": 700, "medium": 1000, "large": 1000}
"""Steps after which D4RL's environments cut an episode, by maze; its eval- twin has the same."""

# #: wall, r: start, g: goal of D4RL's collection, e: of evaluation, G: both. A column is 13 wide.
_NAMES, *_ROWS = """\
umaze        medium       large        eval-umaze   eval-medium  eval-large
#####        ########     ############ #####        ########     ############
#r..#        #r.##..#     #r...#g....# #..r#        #r....G#     #r.#g..#.G.#
###.#        #..#..g#     #.##.#.#.#.# #.###        #.#.##.#     ##.###.#.#.#
#G..#        ##...###     #....g.#..g# #..G#        #....#.#     #..#.#g....#
#####        #..#...#     #.####.###.# #####        ###..###     #.##.#..##.#
             #g#..#.#     #.g#.#.....#              #g.....#     #g.....#...#
             #...#ge#     ##.#.#.#.###              #..##g.#     #.##.#.#.###
             ########     #..#g.g#.G.#              ########     #...g#g...g#
                          ############                           ############
""".splitlines()
MAZES = {
    name: tuple(filter(None, (row[13 * i : 13 * i + 13].strip() for row in _ROWS)))
    for i, name in enumerate(_NAMES.split())
}
"""The rows of each maze, one string a row."""


def walls(maze: str) -> Bool[np.ndarray, "rows cols"]:
    """True where a cell is wall."""
    return np.array([[cell == "#" for cell in row] for row in MAZES[maze]])


def cells(maze: str, marks: str) -> np.ndarray:
    """(row, column) of every cell with one of these marks, in reading order, [n, 2]."""
    grid = np.array([list(row) for row in MAZES[maze]])
    return np.argwhere(np.isin(grid, list(marks)))


def cell_xy(maze: str, cell: np.ndarray) -> np.ndarray:
    """Centre of (row, column) cells in metres; the start cell is the origin. [..., 2] both."""
    return CELL * (np.asarray(cell) - cells(maze, "r")[0])[..., ::-1].astype(float)


def xy_cell(maze: str, xy: np.ndarray) -> np.ndarray:
    """(row, column) of the cells that hold these points."""
    return np.rint(np.asarray(xy)[..., ::-1] / CELL).astype(int) + cells(maze, "r")[0]
