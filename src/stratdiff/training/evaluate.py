"""Episodes of a policy in its environment."""

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from stratdiff import process
from stratdiff.tasks import episode_seed
from stratdiff.training.environments import Environments


@runtime_checkable
class Deterministic(Protocol):
    """What acts: `stratdiff.Policy`, or another library's policy in the benchmarks."""

    def mode(self, obs: Float[np.ndarray, "seeds episodes obs"]) -> np.ndarray:
        """The actions [seeds, episodes, act] in these states."""
        ...


class Evaluator:
    """Runs all episodes of all policies together; its environments are made when first needed."""

    def __init__(self, environments: Environments, seeds: tuple[int, ...], episodes: int) -> None:
        self.seeds, self.episodes = seeds, episodes
        self._environments = environments
        self._envs: list[list[Any]] = []

    def __call__(self, policy: Deterministic) -> Float[np.ndarray, "seeds episodes"]:
        """Undiscounted return of every episode, deterministic actions.

        Episode e of seed s always starts in the same state, so evaluations are paired. One in which
        the environment gives a value that is not finite ends there; its return is NaN.
        """
        if not self._envs:
            made = iter(self._environments.make(len(self.seeds) * self.episodes))
            self._envs = [[next(made) for _ in range(self.episodes)] for _ in self.seeds]
        obs = np.stack(
            [
                [env.reset(seed=episode_seed(seed, 1, e))[0] for e, env in enumerate(envs)]
                for seed, envs in zip(self.seeds, self._envs, strict=True)
            ]
        ).astype(np.float64)
        returns = np.where(np.isfinite(obs).all(2), 0.0, np.nan)
        running = np.isfinite(returns)
        steps, limit = 0, self._environments.task.horizon or math.inf
        while running.any() and steps < limit:
            process.honour()
            action = policy.mode(obs)
            for s, e in np.argwhere(running):
                obs[s, e], reward, terminated, truncated, _ = self._envs[s][e].step(action[s, e])
                finite = math.isfinite(reward) and np.isfinite(obs[s, e]).all()
                returns[s, e] += reward if finite else np.nan
                running[s, e] = finite and not (terminated or truncated)
            steps += 1
        return returns

    def close(self) -> None:
        """Close the environments."""
        for envs in self._envs:
            self._environments.close(envs)
        self._envs = []
