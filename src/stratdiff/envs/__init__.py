"""Environments of this package; importing it registers them with Gymnasium."""

import gymnasium

from stratdiff.envs.mazes import HORIZONS, MAZES

for _maze in MAZES:
    gymnasium.register(
        f"stratdiff/AntMaze-{_maze}-v2",
        entry_point="stratdiff.envs.antmaze:AntMaze",
        kwargs={"maze": _maze},
        max_episode_steps=HORIZONS[_maze.removeprefix("eval-")],
    )
gymnasium.register(
    "stratdiff/AntWalk-v0", entry_point="stratdiff.data.made.antwalk:AntWalk", max_episode_steps=400
)
