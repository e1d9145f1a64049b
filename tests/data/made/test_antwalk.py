"""The walking task."""

import gymnasium
import numpy as np


def test_walking_task():
    env = gymnasium.make("stratdiff/AntWalk-v0")
    rng, first = np.random.default_rng(0), env.reset(seed=3)[0]
    assert env.observation_space.contains(first) and env.spec.max_episode_steps == 400
    rewards = [env.step(rng.uniform(-1, 1, 8).astype(np.float32))[1] for _ in range(20)]
    # Hardly any way made, upright: about 1 a step.
    assert 0 < np.mean(rewards) < 1.5
    np.testing.assert_array_equal(env.reset(seed=3)[0], first)
