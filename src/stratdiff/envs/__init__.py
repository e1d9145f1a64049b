"""Environments of this package; importing it registers them with Gymnasium."""

import gymnasium

from stratdiff.envs import ogbench
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
for _maze, _facts in ogbench.MAZES.items():
    for _task in ogbench.TASKS:
        gymnasium.register(
            f"stratdiff/ogbench-{_maze}-{_task}-v0",
            entry_point="stratdiff.envs.ogbench:make",
            kwargs={"name": f"{_maze}-{_task}-v0"},
            max_episode_steps=_facts.horizon,
        )
