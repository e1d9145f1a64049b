"""Ship one policy of an AntWalk run: weights in half precision, goal rates in its metadata.

    python scripts/pack_ant.py RUN_DIR/policies/STEP.safetensors OUT.safetensors

docs/datasets.md has the command that trains it.
"""

import argparse
from pathlib import Path

import numpy as np

from stratdiff.data.made.antwalk import ACTION_NOISE
from stratdiff.data.made.waypoints import Navigator, actions, features
from stratdiff.envs.antmaze import AntMaze
from stratdiff.envs.mazes import HORIZONS
from stratdiff.policy import Policy

EPISODES = 100


def goal_rate(policy: Policy, maze: str) -> float:
    """Share of evaluation episodes in which the waypoint recipe reaches the goal."""
    rng, way = np.random.default_rng(0), Navigator(maze)
    envs = [AntMaze(maze) for _ in range(EPISODES)]
    state = np.stack([env.reset(seed=i)[0] for i, env in enumerate(envs)])
    goals, reached = np.stack([env.goal for env in envs]), np.zeros(EPISODES, bool)
    for _ in range(HORIZONS[maze]):
        noise = rng.uniform(0, 1, (EPISODES, 2))
        ahead = way.waypoints(state[:, :2], goals, noise) - state[:, :2]
        seen, quarter = features(state, ahead)
        action = actions(policy.mode(seen[None])[0], quarter)
        action = np.clip(action + ACTION_NOISE * rng.standard_normal(action.shape), -1, 1)
        for i in np.flatnonzero(~reached):
            state[i], _, reached[i], *_ = envs[i].step(action[i])
    return float(reached.mean())


def main() -> None:
    """Pack and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    found = Policy.load(args.policy)
    found.layers = [(w.astype(np.float16), b.astype(np.float16)) for w, b in found.layers]
    keep = ("environment", "step")
    found.metadata = {key: found.metadata[key] for key in keep}
    found.save(args.out)
    half = Policy.load(args.out)
    found.metadata["goal_rates"] = {maze: goal_rate(half, maze) for maze in HORIZONS}
    found.save(args.out)
    print(f"{args.out.stat().st_size / 1e6:.2f} MB, {found.metadata}")


if __name__ == "__main__":
    main()
