"""What stands between the package and every environment: it copies, casts and checks all values."""

import contextlib
import math
import reprlib
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from jaxtyping import Float

from stratdiff.errors import BadEnvironment, UserError, last_line

Flat = Float[np.ndarray, " obs"]

_API = (
    "let reset take seed and options and return (observation, info), and step return (observation, "
    "reward, terminated, truncated, info); shimmy's GymV21CompatibilityV0 wraps one of old Gym so"
)
# What Gymnasium's own wrappers say of an environment with old Gym's signatures.
_OLD = ("expected 5, got 4", "unexpected keyword argument 'seed'", "keyword argument 'options'")
_TRIAL_STEPS = 3
_LARGEST = float(np.finfo(np.float32).max)


def finite(values: Any) -> bool:
    """Whether numbers can be learned from: none is NaN or, as float32, infinite."""
    return bool((np.abs(values) <= _LARGEST).all())


def check_actions(space: gymnasium.Space, where: str) -> Box:
    """The space, if it is a flat Box with finite bounds.

    Raises:
        UserError: it is not.
    """
    if isinstance(space, gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete):
        raise UserError(
            f"{where} has the action space {space}: discrete actions are not supported; a flat Box "
            "of real numbers is needed."
        )
    if not isinstance(space, Box) or len(space.shape) != 1 or space.dtype.kind != "f":
        raise UserError(
            f"{where} has the action space {space}; a flat Box of real numbers is needed, so "
            "choose an environment with such actions."
        )
    if not (np.isfinite(space.low) & np.isfinite(space.high) & (space.low < space.high)).all():
        raise UserError(
            f"{where} has the action space {space}; bounds that are finite and not equal are "
            "needed to scale actions to [-1, 1], so give the environment such bounds."
        )
    return space


def unit_actions(actions: np.ndarray, space: Box) -> np.ndarray:
    """Actions (..., A) within the bounds of `space`, scaled to [-1, 1], as float32."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if (low == -1).all() and (high == 1).all():
        return actions.astype(np.float32)
    return (2 * (actions.astype(np.float64) - low) / (high - low) - 1).astype(np.float32)


def env_actions(actions: np.ndarray, space: Box) -> np.ndarray:
    """Actions (..., A) in [-1, 1], scaled to the bounds of `space`, in its type."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if (low == -1).all() and (high == 1).all():
        return actions.astype(space.dtype)
    scaled = low + (high - low) * (actions.astype(np.float64) + 1) / 2
    return np.clip(scaled, low, high).astype(space.dtype)


class Checked(gymnasium.Wrapper):
    """An environment whose values are checked; what it returns may be its own arrays."""

    def __init__(self, env: gymnasium.Env, where: str, space: gymnasium.Space) -> None:
        """`where`: what errors call it; `space`: the part of its observations that is used.

        Raises:
            UserError: its actions are no flat Box with finite bounds.
        """
        super().__init__(env)
        self.where, self._space, self._steps = where, space, 0
        self.bounds = check_actions(env.action_space, where)

    def after_reset(self, result: Any) -> tuple[Any, Flat]:
        """(info, a flat copy of the observation) of what `reset` returned.

        Raises:
            BadEnvironment: it is not of Gymnasium's form, or does not fit the observation space.
        """
        self._steps = 0
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._bad(f"returned {reprlib.repr(result)}, not (observation, info)", _API)
        return result[1], self._flat(result[0])

    def after_step(self, result: Any) -> tuple[Flat, float, bool, bool]:
        """(flat copy of the observation, reward, terminated, truncated) of what `step` returned.

        Raises:
            BadEnvironment: see `after_reset`; or the reward or a flag is no single number.
        """
        self._steps += 1
        if not isinstance(result, tuple) or len(result) != 5:
            n = f"{len(result)} values" if isinstance(result, tuple) else reprlib.repr(result)
            raise self._bad(f"returned {n}, not the five of Gymnasium", _API)
        obs, reward, terminated, truncated, _ = result
        flags = self._flag(terminated, "terminated"), self._flag(truncated, "truncated")
        return self._flat(obs), self._number(reward, "a reward"), *flags

    def check_finite(self, obs: np.ndarray, reward: float = 0.0) -> None:
        """Refuse values that cannot be learned from.

        Raises:
            BadEnvironment: one is NaN or infinite.
        """
        for what, value in (("an observation", obs), ("a reward", reward)):
            if not finite(value):
                raise self._bad(f"gave {what} that is NaN or infinite")

    def _bad(self, what: str, *advice: str) -> BadEnvironment:
        moment = f"in step {self._steps} of an episode" if self._steps else "at reset"
        return BadEnvironment(f"{self.where} {what} {moment}", *advice)

    def _flat(self, obs: Any) -> Flat:
        try:
            return self._copied(self._space, obs)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            said = f"gave the observation {reprlib.repr(obs)}, which does not fit {self._space}"
            raise self._bad(said) from error

    def _copied(self, space: gymnasium.Space, obs: Any) -> Flat:
        """Float64 by rule, whatever type the first observation has; never broadcast."""
        if isinstance(space, Dict):  # in Gymnasium's order
            parts = [self._copied(part, obs[key]) for key, part in space.items()]
            return np.concatenate(parts)
        if not isinstance(space, Box):
            return np.array(gymnasium.spaces.flatten(space, obs), np.float64)
        array = np.array(obs, np.float64)
        if array.shape != space.shape:
            said = f"gave an observation of shape {array.shape}, not {space.shape},"
            raise self._bad(said)
        return array.ravel()

    def _number(self, value: Any, what: str) -> float:
        """A number, or the one in an array of one element."""
        if type(value) is float:
            return value
        with contextlib.suppress(TypeError, ValueError):
            array = np.asarray(value)
            if array.size == 1 and array.dtype.kind in "biufO":
                return float(array.item())
        raise self._bad(f"gave {what} {reprlib.repr(value)}, which is no single number,")

    def _flag(self, value: Any, name: str) -> bool:
        if type(value) is bool:
            return value
        number = self._number(value, f"a {name} flag")
        if number not in (0, 1):
            raise self._bad(
                f"gave a {name} flag {reprlib.repr(value)}, which is not true or false,"
            )
        return bool(number)


class Guard(Checked):
    """The environment as training and evaluation see it: every failure is one sentence.

    It takes actions in [-1, 1] and gives the environment its own copy within its own bounds.
    Observations are flat float64 arrays that nobody else writes to, rewards floats, flags bools.
    """

    def __init__(self, env: gymnasium.Env, where: str, space: gymnasium.Space) -> None:
        """As `Checked`; `space` is a Box (n,), or a Dict that flattens to one."""
        super().__init__(env, where, space)
        flat: Any = gymnasium.spaces.flatten_space(space)
        low, high = flat.low.astype(np.float64), flat.high.astype(np.float64)
        self.observation_space = Box(low, high, dtype=np.float64)
        self.action_space = Box(-1.0, 1.0, self.bounds.shape, np.float32)
        number = self.bounds.dtype.type
        self._to_bounds = gymnasium.wrappers.RescaleAction(env, number(-1), number(1)).func

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Flat, Any]:
        """See `gymnasium.Env`.

        Raises:
            BadEnvironment: it fails, or what it returns is refused by `Checked`.
        """
        self._steps = 0
        try:
            info, obs = self.after_reset(self.env.reset(seed=seed, options=options))
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise self._failed(error) from error
        return obs, info

    def step(self, action: Any) -> tuple[Flat, float, bool, bool, Any]:
        """See `gymnasium.Env`; `action` [act] in [-1, 1].

        Raises:
            BadEnvironment: see `reset`.
        """
        space = self.bounds
        # Rounding may lead out of the bounds by one bit.
        within = np.minimum(np.maximum(self._to_bounds(action), space.low), space.high)
        try:
            result = self.env.step(within.astype(space.dtype))
            return *self.after_step(result), result[4]
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            self._steps += 1
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the environment; what is done with it is done, even if it fails now."""
        with contextlib.suppress(Exception, SystemExit):
            super().close()

    def try_out(self) -> float:
        """Reset and take a few random steps, always the same; every value must be usable.

        Returns:
            Seconds that the fastest of the steps took.

        Raises:
            BadEnvironment: see `reset`; or a value is NaN or infinite.
        """
        rng = np.random.default_rng(0)
        self.check_finite(self.reset(seed=0)[0])
        seconds = math.inf
        for _ in range(_TRIAL_STEPS):
            action = rng.uniform(-1, 1, self.bounds.shape).astype(np.float32)
            start = time.perf_counter()
            obs, reward, terminated, truncated, _ = self.step(action)
            seconds = min(seconds, time.perf_counter() - start)
            self.check_finite(obs, reward)
            if terminated or truncated:
                self.check_finite(self.reset(seed=0)[0])
        return seconds

    def _failed(self, error: BaseException) -> BadEnvironment:
        advice = (_API,) if any(words in str(error) for words in _OLD) else ()
        return self._bad(f"failed ({last_line(error)})", *advice)
