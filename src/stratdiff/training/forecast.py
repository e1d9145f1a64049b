"""About how long a run takes: its own compiled programs, timed on copies before it begins.

Each program is the one that the run needs anyway, so compiling it here costs nothing; what is
computed is thrown away, so the run's bits do not depend on it.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from stratdiff.data.batch import Transition
from stratdiff.data.device import DeviceData
from stratdiff.phases import Phase, StorePhase
from stratdiff.policy import Policy
from stratdiff.training import online, pretrain
from stratdiff.training.state import Setup, TrainState

SHORTEST = 5000
"""Updates and environment steps of a run that is worth a forecast."""
_ONLINE_STEPS = 5
_LOCKSTEPS = 20


class Stopwatch:
    """Seconds that each part of a run takes, measured with throw-away copies of its state."""

    def __init__(self, setup: Setup, state: TrainState, data: DeviceData, stored: PyTree) -> None:
        """`stored`: what the score stores with D_off, where that is there already."""
        self._setup, self._state, self._data, self._stored = setup, state, data, stored

    def phase(self, phase: Phase, length: int, stored: bool) -> float:
        """Seconds a step, from the `length` steps between two log points.

        `stored`: whether what the score stores with D_off is there by then.
        """
        rows, step = self._rows(stored), jnp.asarray(0)
        arguments = self._setup, phase.name, self._copy(), self._data, rows, step, length
        pretrain.run_steps.lower(*arguments).compile()
        return _seconds(lambda: pretrain.run_steps(*arguments)) / length

    def storing(self, phase: StorePhase) -> float:
        """Seconds a row of D_off."""
        passes = pretrain.store_all(self._setup, phase.name, self._state, self._data)
        next(passes)
        done: list[int] = []
        seconds = _seconds(lambda: done.append(next(passes, (0, None))[0]))
        return seconds / pretrain.STORE_ROWS if done[0] else 0.0

    def online(self, number: int, stored: bool) -> float:
        """Seconds of the updates of an environment step, `number` of them done."""
        setup, n = self._setup, len(self._state.seed)
        loop = online.Loop(setup, self._copy(), self._data, self._rows(stored))
        obs = np.zeros((n, setup.obs_dim), np.float32)
        action = np.zeros((n, setup.action_dim), np.float32)
        none, false = np.zeros(n, np.float32), np.zeros(n, bool)
        # Tracers are not NumPy's arrays, so the field types cannot say both.
        arrays: dict[str, Any] = {
            **{"obs": obs, "action": action, "reward": none, "next_obs": obs},
            **{"terminal": false, "mc_return": none},
        }
        transition = Transition(**arrays)

        def steps(many: int) -> None:
            for _ in range(many):
                loop.step(transition, obs, number)
                loop.action()

        steps(1)
        return _seconds(lambda: steps(_ONLINE_STEPS)) / _ONLINE_STEPS

    def _copy(self) -> TrainState:
        return jax.tree.map(jnp.copy, self._state)

    def _rows(self, stored: bool) -> PyTree:
        """What the score stores with D_off; zeros, where it is not there yet."""
        if not stored or jax.tree.leaves(self._stored):
            return self._stored
        one = jax.tree.map(lambda x: x[0], self._state.learned)
        lead = len(self._state.seed), len(self._data)
        shapes = self._setup.stored_shapes(one)
        return jax.tree.map(lambda x: jnp.zeros((*lead, *x.shape), x.dtype), shapes)


def acting(policy: Policy, obs: Float[np.ndarray, "seeds episodes obs"]) -> float:
    """Seconds that the policies take to act in these states."""
    policy.mode(obs)
    return _seconds(lambda: [policy.mode(obs) for _ in range(_LOCKSTEPS)]) / _LOCKSTEPS


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start
