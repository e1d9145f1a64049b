"""Write a data set of uniform actions in any environment: SAC's random first steps.

python scripts/uniform_actions.py ENV_ID OUT.hdf5 --rows 20000
"""

import argparse
from pathlib import Path

import numpy as np

from stratdiff.data import hdf5
from stratdiff.tasks import make_env


def main() -> None:
    """Episodes until there are enough rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("env")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    args = parser.parse_args()
    env, rng = make_env(args.env), np.random.default_rng(0)
    keys = ("observations", "actions", "rewards", "terminals", "timeouts")
    columns: dict[str, list] = {key: [] for key in keys}
    obs, _ = env.reset(seed=0)
    for _ in range(args.rows):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        after, reward, terminal, timeout, _ = env.step(action)
        for key, value in zip(keys, (obs, action, reward, terminal, timeout), strict=True):
            columns[key].append(value)
        obs = env.reset()[0] if terminal or timeout else after
    kinds = (np.float32, np.float32, np.float32, bool, bool)
    arrays = {k: np.array(columns[k], kind) for k, kind in zip(keys, kinds, strict=True)}
    hdf5.write(args.out, arrays, args.env)


if __name__ == "__main__":
    main()
