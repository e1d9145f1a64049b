"""Environments of this package, registered with Gymnasium."""

import gymnasium

from stratdiff.envs.antmaze import HORIZONS, MAZES

for _maze in MAZES:
    gymnasium.register(
        f"stratdiff/AntMaze-{_maze}-v2",
        entry_point="stratdiff.envs.antmaze:AntMaze",
        kwargs={"maze": _maze},
        max_episode_steps=HORIZONS[_maze.removeprefix("eval-")],
    )
gymnasium.register(
    "stratdiff/AntWalk-v0", entry_point="stratdiff.envs.antwalk:AntWalk", max_episode_steps=400
)
