"""Episodes of a policy in its environment."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from stratdiff.tasks import Task, make_env


@runtime_checkable
class Deterministic(Protocol):
    """What acts: `stratdiff.Policy`, or another library's policy in the benchmarks."""

    def mode(self, obs: Float[np.ndarray, "seeds episodes obs"]) -> np.ndarray:
        """The actions [seeds, episodes, act] in these states."""
        ...


def episode_seed(seed: int, purpose: int, episode: int) -> int:
    """The environment seed of one episode; purpose 0: online training, 1: evaluation."""
    return int(np.random.SeedSequence([seed, purpose, episode]).generate_state(1)[0] >> 1)


class Evaluator:
    """Runs all episodes of all policies together; its environments are made once."""

    def __init__(self, task: Task, seeds: tuple[int, ...], episodes: int) -> None:
        self.task, self.seeds, self.episodes = task, seeds, episodes
        self._envs = [[make_env(task.env_id) for _ in range(episodes)] for _ in seeds]

    def __call__(self, policy: Deterministic) -> Float[np.ndarray, "seeds episodes"]:
        """Undiscounted return of every episode, deterministic actions.

        Episode e of seed s always starts in the same state, so evaluations are paired.
        """
        obs = np.stack(
            [
                [env.reset(seed=episode_seed(seed, 1, e))[0] for e, env in enumerate(envs)]
                for seed, envs in zip(self.seeds, self._envs, strict=True)
            ]
        )
        returns = np.zeros(obs.shape[:2])
        running = np.ones(obs.shape[:2], bool)
        steps, limit = 0, self.task.horizon or 100_000
        while running.any() and steps < limit:
            action = policy.mode(obs)
            for s, e in np.argwhere(running):
                obs[s, e], reward, terminated, truncated, _ = self._envs[s][e].step(action[s, e])
                returns[s, e] += float(reward)
                running[s, e] = not (terminated or truncated)
            steps += 1
        return returns

    def close(self) -> None:
        """Close the environments."""
        for envs in self._envs:
            for env in envs:
                env.close()
