"""A run that is driven from outside: `act`, `observe`, checkpoints, sinks, resume.

The `train` command is a session and Gymnasium environments (training/loop.py); a robot is a session
and its driver.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stratdiff import process
from stratdiff.data.batch import Transition
from stratdiff.envs.guard import finite
from stratdiff.errors import RunStopped, UserError
from stratdiff.training import online
from stratdiff.training.offline import OfflineRun
from stratdiff.training.setup import check_goal_rewards
from stratdiff.training.summary import Result


class Shares:
    """Where the time of the online loop goes.

    `python`: the Python thread's own work, dispatch included; `environment`: between two calls of
    the session; `compile`: first dispatches of a session; `device`: the rest, when the device was
    waited for or, on a CPU, held the core that Python needed (it also works while Python does).
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self.start()

    def start(self) -> None:
        """Leave out the time until now."""
        self._last = time.perf_counter(), time.thread_time()

    def book(self, part: str) -> None:
        """The time since the last call was this part's."""
        last, self._last = self._last, (time.perf_counter(), time.thread_time())
        wall, cpu = (now - then for now, then in zip(self._last, last, strict=True))
        own = min(cpu, wall) if part == "python" else wall
        for name, seconds in ((part, own), ("device", wall - own)):
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds


class Session(OfflineRun):
    """One run, its online loop driven by the caller.

    ```python
    with Session(config, "runs/arm", dataset, env=None) as session:
        session.pretrain()
        obs = robot.reset()
        while not session.done:
            action = session.act(obs)
            obs, reward, terminated, truncated = robot.step(action)
            session.observe(reward, obs, terminated, truncated)
            if terminated or truncated:
                obs = robot.reset()
        result = session.finish()
    ```

    With one seed, states and actions are [obs] and [act], rewards and flags single values; with
    several, all have the seeds as leading axis. Opening the directory of a run that was cut off
    goes on from its last checkpoint. The result is bit-identical to that of an uninterrupted run
    where the caller brings the environment back to where it was (`train` replays the episode); a
    caller that cannot goes on with a new episode.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """As `Run`."""
        super().__init__(*args, **options)
        self._loop: online.Loop | None = None
        self._pending: tuple[Transition, np.ndarray, np.ndarray] | None = None
        self._obs: np.ndarray | None = None
        self._action: np.ndarray | None = None
        self._compiled: set[str] = set()
        self._shares = Shares(self.position.online_seconds)

    @property
    def done(self) -> bool:
        """Whether all online steps have been observed, or the run was ended."""
        p = self.position
        observed = p.step + (self._pending is not None) if p.phase == "online" else 0
        return self._ended or observed >= self.config.online_steps

    def end(self) -> None:
        """End the run before its last step: it is `done`, and `finish` may be called.

        Opening its directory again goes on to the last step, as after an interruption.
        """
        self._ended = True

    def act(self, obs: Any) -> np.ndarray:
        """The exploring action in `obs`, after learning from the step observed last.

        Args:
            obs: the current state in the environment's units, [obs] or [seeds, obs].

        Returns:
            Actions in [-1, 1], [act] or [seeds, act].

        Raises:
            RunStopped: a state of the wrong shape, or one that is not finite.
        """
        self._obs = self._states(obs)
        normal = self._normalize(self._obs)
        if self._loop is None:
            self._start_online(normal)
        self._shares.book("environment")
        if self._pending is not None:
            self._learn(normal)
        elif not np.array_equal(normal, self._chosen_in):
            self._choose_again(normal)
        if process.stopping():
            self.save()
            process.honour()
        assert self._loop is not None
        self._action = self._loop.action()
        self._shares.book("device")
        return (self._action[0] if np.ndim(obs) == 1 else self._action).copy()

    def observe(self, reward: Any, next_obs: Any, terminated: Any, truncated: Any = False) -> None:
        """What came of the action: it is learned from at the next call of `act`.

        Args:
            reward: as the environment gave it, a number or [seeds].
            next_obs: the state that followed, [obs] or [seeds, obs]; of an episode that ended its
                last one, not the first of the next.
            terminated: whether the environment really ended (no value lies beyond).
            truncated: whether the episode was cut off, by a time limit or by hand.

        Raises:
            RunStopped: a value of the wrong shape, or one that is not finite; nothing is stored.
            UserError: it was called without `act`, or after the last step.
        """
        self._shares.book("environment")
        p, n = self.position, len(self.config.seeds)
        if self._action is None or self._obs is None:
            raise UserError(
                f"observe() was called without act() before it, at online step {p.step}; call "
                "act() first."
            )
        if p.step >= self.config.online_steps:
            raise UserError(
                f"all {p.step} online steps of the run {str(self.directory)!r} have been observed; "
                "call finish()."
            )
        states = self._states(next_obs)
        rewards = self._checked(reward, "a reward", np.float64, ())
        if self.setup.failure_reward is not None:
            where = f"the environment, at online step {p.step},"
            check_goal_rewards(rewards, where, RunStopped)
        terminal = self._checked(terminated, "a terminated flag", np.bool_, ())
        truncated = np.broadcast_to(truncated, n) if np.ndim(truncated) == 0 else truncated
        over = terminal | self._checked(truncated, "a truncated flag", np.bool_, ())
        ended = np.zeros(n, np.int32)
        for i in range(n):
            p.episode_lengths[i] += 1
            if over[i]:
                ended[i] = p.episode_lengths[i]
                p.episodes[i], p.episode_lengths[i] = p.episodes[i] + 1, 0
        scaled = self.units.scale * rewards + self.units.shift
        # Tracers are not NumPy's arrays, so the field types cannot say both.
        arrays: dict[str, Any] = {
            "obs": self._normalize(self._obs),
            "action": self._action,
            "reward": scaled.astype(np.float32),
            "next_obs": self._normalize(states),
            "terminal": terminal,
            "mc_return": np.full(n, -np.inf, np.float32),
        }
        self._pending = Transition(**arrays), ended, arrays["next_obs"]
        self._action = None
        self._shares.book("python")

    def save(self) -> None:
        """Take a checkpoint now, the last observed step included.

        Raises:
            RunStopped: it could not be written.
        """
        if self._pending is not None:
            self._learn(self._pending[2])
        if self._loop is not None:
            self.state = self._loop.state
            total = jax.tree.leaves(self._loop.total)
            self.position.totals = [np.asarray(leaf).tolist() for leaf in total]
        self._checkpoint()

    def finish(self) -> Result:
        """Learn from the last step, take the last checkpoint, write the summary.

        Raises:
            UserError: not all online steps have been observed.
        """
        if not self.done:
            raise UserError(
                f"the run {str(self.directory)!r} has done {self.position.step} of "
                f"{self.config.online_steps} online steps; go on with act() and observe()."
            )
        if self._loop is None:
            self.pretrain()
        self.save()
        return super().finish()

    def episode(self, i: int) -> tuple[int, int]:
        """(number, steps done) of the current episode of seed `i`."""
        p = self.position
        return (p.episodes[i], p.episode_lengths[i]) if p.episodes else (0, 0)

    def replay_episode(self, i: int, env: Any, obs: np.ndarray) -> np.ndarray | None:
        """The state in which seed `i` goes on, after its episode's actions again; None: another.

        An episode's start depends on the seed and its number alone and its actions are in the
        replay buffer, so a resumed run plays them again instead of saving simulator states.
        """
        replay = jax.tree.map(lambda x: np.asarray(x[i]), self.state.replay)
        inserted, length = int(replay.inserted), self.position.episode_lengths[i]
        for row in range(inserted - length, inserted):
            obs = np.asarray(env.step(replay.data.action[row].copy())[0], np.float64)
        same = np.array_equal(self._normalize(obs), replay.data.next_obs[inserted - 1])
        return obs if same else None

    def abandon_episode(self, i: int) -> None:
        """The current episode of seed `i` cannot be continued: the next state begins another."""
        p = self.position
        self.reporter.say(
            f"warning: the episode of seed {self.config.seeds[i]} could not be continued where the "
            "run was cut off; a new episode starts, so the run will not equal an uninterrupted one."
        )
        p.episodes[i], p.episode_lengths[i] = p.episodes[i] + 1, 0

    def _start_online(self, normal: Float[np.ndarray, "seeds obs"]) -> None:
        self.pretrain()
        p, c, n = self.position, self.config, len(self.config.seeds)
        self.reporter.begin("online", c.online_steps, p.step)
        if not p.episodes:
            p.episodes, p.episode_lengths = [0] * n, [0] * n
            self.state = online.act_in(self.setup, self.state, normal, jnp.asarray(0))
            found = self._evaluate()
            if found:
                self._log_now(found)
                self._tell(found)
        self._loop = online.Loop(self.setup, self.state, self.data, self.stored)
        if p.totals:
            leaves, structure = jax.tree.flatten(self._loop.total)
            saved = [np.array(a, b.dtype) for a, b in zip(p.totals, leaves, strict=True)]
            self._loop.total = jax.tree.unflatten(structure, map(jnp.asarray, saved))
        self._chosen_in = np.array(self.state.obs)
        self._shares.start()

    def _choose_again(self, normal: Float[np.ndarray, "seeds obs"]) -> None:
        """Act in another state than the run was left in: its episode was not continued."""
        assert self._loop is not None
        p = self.position
        for i, same in enumerate((normal == self._chosen_in).all(1)):
            if not same and p.episode_lengths[i] > 0:
                self.abandon_episode(i)
        step = jnp.asarray(p.step)
        self._loop.state = online.act_in(self.setup, self._loop.state, normal, step)
        self._chosen_in = normal

    def _learn(self, next_normal: Float[np.ndarray, "seeds obs"]) -> None:
        """Store the pending step, update, choose the action in `next_normal`; log if due."""
        assert self._pending is not None and self._loop is not None
        c, p = self.config, self.position
        (transition, ended, _), self._pending = self._pending, None
        self._loop.step(transition, next_normal, p.step)
        self._chosen_in = next_normal
        self._book("step")
        if ended.any():
            lengths = jnp.asarray(ended)
            self._loop.state = online.finish_episodes(self.setup, self._loop.state, lengths)
            self._book("finish")
        p.step, p.total_steps = p.step + 1, p.total_steps + 1
        if p.step % c.log_interval == 0 or p.step == c.online_steps:
            logged = (p.step - 1) // c.log_interval * c.log_interval
            due = p.step // c.eval_interval > logged // c.eval_interval
            due |= p.step == c.online_steps
            self.state, p.totals = self._loop.state, []
            self._log_point(self._loop.take_total(), due)
            self._shares.start()
        if p.step % 10 == 0:
            self.reporter.update(p.step)

    def _book(self, program: str) -> None:
        """The first call of a program compiles it."""
        self._shares.book("python" if program in self._compiled else "compile")
        self._compiled.add(program)

    def _normalize(self, obs: np.ndarray) -> np.ndarray:
        return ((obs - self._mean) / self._std).astype(np.float32)

    def _states(self, value: Any) -> Float[np.ndarray, "seeds obs"]:
        """A copy of the caller's states, one a seed."""
        return self._checked(value, "an observation", np.float64, (self.task.obs_dim,))

    def _checked(self, value: Any, what: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        n = len(self.config.seeds)
        try:
            array = np.array(value, dtype)
        except (TypeError, ValueError) as error:
            raise self._bad(what, f"{value!r}, which is not made of numbers", "") from error
        if n == 1 and array.shape == shape:
            array = array[None]
        if array.shape == (n, *shape, 1) and shape == ():  # an array of one element
            array = array[..., 0]
        if array.shape != (n, *shape):
            expected = (n, *shape) if n > 1 else shape
            raise self._bad(what, f"of shape {np.shape(value)}", f"; expected {expected}")
        if array.dtype == np.float64 and not finite(array):
            raise self._bad(what, "that is NaN or infinite", "")
        return array

    def _bad(self, what: str, found: str, expected: str) -> RunStopped:
        env_id, p = self.task.env_id, self.position
        where = f"environment {env_id!r}" if env_id else "the environment"
        step = p.step if p.phase == "online" else 0  # the first state may come before pre-training
        return self.stopped(f"{where} gave {what} {found}{expected}", f"online step {step}")
