"""Environments as people write them, each with one thing that is not as Gymnasium wants it."""

import os
import signal
import sys
import time
import warnings

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from pointmass import PointMass

from stratdiff.training.evaluate import episode_seed

AT = 45
"""The step of training, counted over its episodes, from which an environment misbehaves."""
TRAINING = {episode_seed(0, 0, number) for number in range(9)}
"""The environment seeds of a run's training episodes; its evaluations have others."""


class Counting(PointMass):
    """Counts its steps over all its episodes."""

    steps, training = 0, False

    def reset(self, *, seed=None, options=None):
        self.training = seed in TRAINING
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        return super().step(action)

    @property
    def late(self):
        """Whether the time has come in training; never once it is mended."""
        return self.training and self.steps >= AT and "MENDED" not in os.environ

    @property
    def evaluated(self):
        """Whether it runs in an evaluation, beyond what is only tried."""
        return not self.training and self.steps > 30 and "MENDED" not in os.environ


class RaisesInInit(PointMass):
    def __init__(self):
        raise FileNotFoundError("model.xml")


class SyntaxErrorInInit(PointMass):
    def __init__(self):
        compile("def", "model.py", "exec")


class RaisesInReset(PointMass):
    def reset(self, *, seed=None, options=None):
        raise ConnectionError("the simulator does not answer")


class RaisesInStep(Counting):
    def step(self, action):
        if self.late:
            raise RuntimeError("the gripper is stuck")
        return super().step(action)


class RaisesInClose(PointMass):
    def close(self):
        raise RuntimeError("the window is gone")


class ExitsInStep(Counting):
    def step(self, action):
        if self.late:
            sys.exit("licence expired")
        return super().step(action)


class ExitsWithZero(Counting):
    def step(self, action):
        if self.late:
            sys.exit(0)
        return super().step(action)


class DiesInStep(Counting):
    def step(self, action):
        if self.late:
            os._exit(7)
        return super().step(action)


class KillsItself(Counting):
    def step(self, action):
        if self.late:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class InterruptsItself(Counting):
    def step(self, action):
        if self.late and self.steps == AT:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)


class NotANumberObserved(Counting):
    def step(self, action):
        obs, *rest = super().step(action)
        return obs * (np.nan if self.late else 1), *rest


class InfiniteReward(Counting):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, (np.inf if self.late else reward), *rest


class RaisesInEvaluation(Counting):
    def step(self, action):
        if self.evaluated:
            raise RuntimeError("the second arm is missing")
        return super().step(action)


class NotANumberInEvaluation(Counting):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, (np.nan if self.evaluated else reward), *rest


class NotANumberFromReset(PointMass):
    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return obs * np.nan, info


class WrongShape(PointMass):
    def step(self, action):
        obs, *rest = super().step(action)
        return obs[:, None], *rest


class WrongShapeLater(Counting):
    def step(self, action):
        obs, *rest = super().step(action)
        return (obs[:1] if self.late else obs), *rest


class HugeObservation(Counting):
    """Finite in float64, not in float32."""

    def step(self, action):
        obs, *rest = super().step(action)
        return obs * (1e200 if self.late else 1), *rest


class OldApi(PointMass):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, info


class OldReset(PointMass):
    def reset(self):
        return PointMass.reset(self, seed=0)[0]


class ResetWithoutInfo(PointMass):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class DiscreteActions(PointMass):
    action_space = Discrete(3)


class InfiniteBounds(PointMass):
    action_space = Box(-np.inf, np.inf, (2,), np.float32)


class OneSidedBounds(PointMass):
    action_space = Box(0.0, np.inf, (2,), np.float32)


class NoneReward(PointMass):
    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, None, *rest


class LongReward(PointMass):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, np.array([reward, reward]), *rest


# From here on: what is odd, and has a right reading that gives the bits of the plain environment.


class WritesIntoTheAction(PointMass):
    def step(self, action):
        found = super().step(np.array(action))
        action *= 0
        return found


class ReusesItsArray(PointMass):
    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        self.buffer = np.array(obs)
        return self.buffer, info

    def step(self, action):
        obs, *rest = super().step(action)
        self.buffer[:] = obs
        return self.buffer, *rest


class RewardOfOneElement(PointMass):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, np.array([reward]), *rest


class RewardOfNoDimension(PointMass):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, np.array(reward), *rest


class FlagsOfNumpy(PointMass):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, np.bool_(terminated), np.bool_(truncated), info


class FlagsOfOneElement(PointMass):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, np.array([terminated]), np.array([truncated]), info


class FlagsAsNumbers(PointMass):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, int(terminated), int(truncated), info


class ObservesAList(PointMass):
    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return obs.tolist(), info

    def step(self, action):
        obs, *rest = super().step(action)
        return obs.tolist(), *rest


class WarnsAtEveryStep(PointMass):
    def step(self, action):
        warnings.warn(f"unstable at {time.time()}", RuntimeWarning, stacklevel=1)
        return super().step(action)


class PrintsAtEveryStep(PointMass):
    def step(self, action):
        print("step", action)
        print("error? no", file=sys.stderr)
        return super().step(action)


class WithoutInfo(PointMass):
    def step(self, action):
        return *super().step(action)[:4], {"array": np.zeros(3), "none": None, "self": self}


# The bits differ from the plain environment's, but it must be trained in.


class IntegersFromReset(PointMass):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = np.array([1.0, 1.0])
        return np.array([1, 1]), {}


class ChangingType(Counting):
    def step(self, action):
        obs, *rest = super().step(action)
        return obs.astype((np.float16, np.float32, np.float64)[self.steps % 3]), *rest


class DoubleActions(PointMass):
    action_space = Box(np.array([-0.1, -3.0]), np.array([0.8, 0.7]), dtype=np.float64)

    def step(self, action):
        assert action in self.action_space, action
        return super().step(action)


class NarrowActions(PointMass):
    action_space = Box(-0.1, 0.8, (2,), np.float32)

    def step(self, action):
        assert action in self.action_space, action
        return super().step(action)


class Nested(PointMass):
    observation_space = Dict(
        x=Box(-np.inf, np.inf, (1,), np.float64), y=Box(-np.inf, np.inf, (1,), np.float64)
    )

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return {"x": obs[:1], "y": obs[1:]}, info

    def step(self, action):
        obs, *rest = super().step(action)
        return {"x": obs[:1], "y": obs[1:]}, *rest


class OnlyOne(PointMass):
    """A robot: there is one."""

    made = 0

    def __init__(self):
        OnlyOne.made += 1
        assert OnlyOne.made == 1, "the robot is in use"


class Endless(PointMass):
    """Registered without a time limit."""


for kind in list(vars().values()):
    if isinstance(kind, type) and issubclass(kind, PointMass) and kind is not PointMass:
        limit = None if kind is Endless else 40
        gymnasium.register(f"{kind.__name__}-v0", kind, max_episode_steps=limit)
