"""Does an environment's physics match a data file? Single steps are replayed and compared.

The state of a row is set in the simulator, the stored action is applied, and the result is compared
with the next row. A step is short, so errors do not grow: what remains beyond float32 rounding is
another simulator, another model, other actions, or rows that do not follow each other.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Bool, Float

from stratdiff.data import hdf5
from stratdiff.data.dataset import Dataset
from stratdiff.data.tools import rows as file_rows
from stratdiff.data.tools import verdict
from stratdiff.data.tools.replay import States, find_states, inside_walls, make_like, replay
from stratdiff.data.tools.verdict import MATCH, ROUNDINGS, Errors, Report
from stratdiff.envs.mazes import SUCCESS_RADIUS
from stratdiff.errors import UserError
from stratdiff.tasks import Task, make_env, related, task_of_env, version_note

# Errors are in standard deviations of the data, per dimension. A row is off when its error is
# above _OFF and above what rounding its state to float32 explains.
_OFF = 1e-3
# An unrelated state is about one standard deviation away in some dimension.
_UNRELATED = 0.5
_TRIAL_ROWS = 200
_SUSPECTS = 500
_SCALES = np.exp2(np.arange(-20, 21) / 4)


def check(path: str | Path, env_id: str = "", rows: int = 2000, seed: int = 0) -> Report:
    """Replay up to `rows` random steps of a D4RL-format file in an environment.

    `env_id` empty: the environment that the file names.

    Raises:
        UserError: the file cannot be read, no environment is known, or the file has other
            dimensions than the environment.
    """
    env_id = env_id or str(hdf5.read_attributes(path).get("env_id", ""))
    if not env_id:
        raise UserError(
            f"data file {str(path)!r} does not name its environment; give it with --env."
        )
    env = make_env(env_id)
    try:
        task = task_of_env(env, env_id)
        dataset = hdf5.read(path, task.horizon)
        found = (dataset.observations.shape[1], dataset.actions.shape[1])
        if found != (task.obs_dim, task.action_dim):
            raise UserError(
                f"data file {str(path)!r} has {found[0]} observation and {found[1]} action "
                f"dimensions, {env_id} has {task.obs_dim} and {task.action_dim}; give the "
                "environment that the file was collected in."
            )
        env.reset(seed=seed)
        return _Check(path, env, task, dataset, rows, seed).report()
    finally:
        env.close()


class _Check:
    """The check of one file in one environment."""

    def __init__(
        self,
        path: str | Path,
        env: gymnasium.Env,
        task: Task,
        dataset: Dataset,
        rows: int,
        seed: int,
    ) -> None:
        self.path, self.env, self.task, self.data = path, env, task, dataset
        self.env_id, self.made_with = task.env_id, dataset.mujoco or ""
        self.limit, self.seed = rows, seed
        self.std = dataset.normalizer()[1].astype(np.float64)
        self.goals = hasattr(env.unwrapped, "goal")
        """The reward depends on a goal that is no part of the state."""

    def report(self) -> Report:
        data = self.data
        obs, actions = data.observations, data.actions
        lengths = np.diff(np.flatnonzero(data.ends), prepend=-1)
        tail = len(obs) - int(lengths.sum())
        longest = self.task.longest_trajectory or np.inf
        facts: dict[str, Any] = {
            "duplicates": file_rows.duplicates(obs, actions, data.rewards),
            "dead_observations": file_rows.dead(obs),
            "dead_actions": file_rows.dead(actions),
            "long_episodes": int((np.append(lengths, tail) > longest).sum()),
        }
        jumps = file_rows.jumps(obs)
        jumps[data.ends[:-1]] = 0
        states, reason = find_states(self.env, self.path, data)
        if states is None:
            result = self._without_replay(jumps, reason)
        else:
            result = self._with_replay(states, jumps)
        report = Report(path=str(self.path), env_id=self.env_id, rows=len(obs), **result, **facts)
        return dataclasses.replace(
            report, findings=verdict.findings(report, self.made_with, self.task.horizon)
        )

    def _error(self, found: np.ndarray, stored: np.ndarray) -> Float[np.ndarray, " n"]:
        """Largest of all dimensions, in standard deviations of the data."""
        with np.errstate(invalid="ignore", over="ignore"):
            error = (np.abs(found - stored) / self.std).max(1)
        return np.nan_to_num(error, nan=np.inf, posinf=np.inf)

    def _without_replay(self, jumps: np.ndarray, reason: str) -> dict[str, Any]:
        typical = np.median(jumps[jumps > 0]) if (jumps > 0).any() else np.inf
        breaks = np.flatnonzero(jumps > 5 * typical)
        text = f"not compared with {self.env_id}: {reason}."
        if file_rows.shuffled(self.data.observations, self.seed):
            text, breaks = verdict.SHUFFLED, breaks[:0]
        return {"matches": None, "verdict": text, "breaks": tuple(breaks.tolist())}

    def _with_replay(self, states: States, jumps: np.ndarray) -> dict[str, Any]:
        data, rng = self.data, np.random.default_rng(self.seed)
        obs = data.observations
        inner = np.flatnonzero(states.usable[:-1] & ~data.ends[:-1])
        if not len(inner):
            return self._without_replay(jumps, "no row has a usable state and a next row")
        rows = np.sort(rng.choice(inner, min(self.limit, len(inner)), replace=False))
        steps = replay(self.env, states, rows)
        rounded = replay(self.env, states, rows, rng=rng)
        floor = self._error(rounded.after, steps.after)
        allowed = _OFF + ROUNDINGS * floor
        error = self._error(steps.after, obs[rows + 1])
        off = ~(error <= allowed)
        reward_floor = ROUNDINGS * np.abs(rounded.rewards - steps.rewards)
        wrong_reward = self._wrong(steps.rewards, rows, reward_floor)
        # A step to an unrelated state whose reward is right is a missing flag, not other physics.
        # With a goal the reward says nothing; the state must have jumped.
        right = jumps[rows] > 5 * np.median(jumps[inner]) if self.goals else ~wrong_reward
        broken = off & (error > _UNRELATED) & right
        if broken.mean() > 0.5:  # too many for missing flags
            broken[:] = False
        off &= ~broken
        wrong_reward &= ~off  # a wrong step has a wrong reward
        off_share = float(off.mean())
        walled = inside_walls(self.env, obs)
        shuffled = file_rows.shuffled(obs, self.seed)
        matches = max(off_share, walled) <= MATCH and not shuffled
        terminal = np.flatnonzero(states.usable & data.terminals)
        terminal = rng.choice(terminal, min(self.limit // 4, len(terminal)), replace=False)
        last = replay(self.env, states, terminal)
        wrong_last = self._wrong(last.rewards, terminal, np.zeros(len(terminal)))
        breaks = np.zeros(0, int)
        if matches:
            suspects = np.argsort(-jumps)[:_SUSPECTS]
            suspects = suspects[(jumps[suspects] > 0) & states.usable[suspects]]
            after = replay(self.env, states, suspects).after
            unrelated = self._error(after, obs[suspects + 1]) > _UNRELATED
            breaks = np.union1d(suspects[unrelated], rows[broken])
        before = steps.before
        observed = None if before is None else self._error(before, obs[rows])
        trials = {}
        elsewhere = observed is not None and bool(np.median(observed) > _OFF)
        if not matches and not shuffled and not elsewhere:
            some = np.flatnonzero(~broken)[:: max(1, (~broken).sum() // _TRIAL_ROWS)]
            trials = self._trials(states, rows[some], allowed[some])
        elif self.goals:
            wrong_reward, wrong_last = self._wrong_goals(states, rng), np.zeros(0, bool)
        elif matches and (wrong_reward.any() or wrong_last.any()):
            some = np.concatenate([rows[:_TRIAL_ROWS], terminal])
            own = np.concatenate([steps.rewards[:_TRIAL_ROWS], last.rewards])
            trials = self._reward_trials(states, some, own)
        reward_error = np.abs(steps.rewards - data.rewards[rows])
        ended = steps.terminals & ~broken
        known = error[~broken], off[~broken]
        if shuffled:
            text = verdict.SHUFFLED
        elif matches:
            text = verdict.matching(self.env_id, *known, floor)
        else:
            text = verdict.differing(self.env_id, self.made_with, *known, elsewhere, walled, trials)
        return {
            "matches": bool(matches),
            "verdict": text,
            "replayed": len(rows),
            "state_from": states.source,
            "off_share": off_share,
            "observation_error": None if observed is None else Errors.of(observed),
            "step_error": Errors.of(error),
            "floor": Errors.of(floor),
            "reward_error": None if self.goals else Errors.of(reward_error),
            "trials": trials,
            "wrong_rewards": int(wrong_reward.sum() + wrong_last.sum()),
            "wrong_terminals": 0 if self.goals else int(ended.sum() + (~last.terminals).sum()),
            "breaks": tuple(breaks.tolist()),
        }

    def _wrong(
        self, rewards: np.ndarray, rows: np.ndarray, allowed: np.ndarray
    ) -> Bool[np.ndarray, " n"]:
        """Rewards that differ by more than `allowed` and a thousandth of the data's spread."""
        stored = self.data.rewards
        spread = 1e-3 * float(stored.std(dtype=np.float64)) + 1e-5 * np.abs(stored[rows])
        return ~(np.abs(rewards - stored[rows]) <= allowed + spread + 1e-6)

    def _wrong_goals(self, states: States, rng: np.random.Generator) -> Bool[np.ndarray, " n"]:
        """Rewards that are not 0 or 1, and rewarded steps that end apart from the goal.

        The goal is the row's infos/goal or, as in D4RL's relabelled files, one for all rows.
        """
        rewards = self.data.rewards
        odd = np.flatnonzero((rewards != 0) & (rewards != 1))
        rows = np.flatnonzero((rewards == 1) & states.usable)
        rows = rng.choice(rows, min(_SUSPECTS, len(rows)), replace=False)
        place = replay(self.env, states, rows).after[:, :2]
        radius = SUCCESS_RADIUS
        if len(rows):
            apart = np.linalg.norm(place - np.median(place, 0), axis=1) > 2 * radius
            goal = hdf5.read_arrays(self.path, ["infos/goal"]).get("infos/goal")
            if goal is not None and goal.shape == (len(rewards), 2):
                own = np.linalg.norm(place - goal[rows], axis=1) > radius + 0.01
                apart = min(apart, own, key=np.sum)
        else:
            apart = np.zeros(0, bool)
        return np.concatenate([np.ones(len(odd), bool), apart])

    def _trials(self, states: States, rows: np.ndarray, allowed: np.ndarray) -> dict[str, float]:
        """Share of rows that are off when something else is assumed."""
        obs, actions, found = self.data.observations, self.data.actions, {}

        def share(env: gymnasium.Env, action: Callable[[int], np.ndarray] | None = None) -> float:
            after = replay(env, states, rows, action).after
            return float((self._error(after, obs[rows + 1]) > allowed).mean())

        for other in related(self.env_id):
            env = make_like(other, self.env)
            if env is not None:
                found[other] = max(share(env), inside_walls(env, obs))
                env.close()
        env = make_env(self.env_id)
        env.reset(seed=0)
        summed = version_note("3.4") is not None
        env.unwrapped.model.geom_margin[:] *= 0.5 if summed else 2  # type: ignore[attr-defined]
        found[verdict.OLD_MARGINS if summed else verdict.NEW_MARGINS] = share(env)
        env.close()
        for shift, label in ((-1, "actions of the row before"), (1, "actions of the row after")):
            found[label] = share(self.env, action=np.roll(actions, -shift, 0).__getitem__)
        if min(found.values()) <= MATCH:
            return found
        best = min(
            (s for s in _SCALES if s != 1),
            key=lambda s: self._scaled_error(states, rows[::4], s),
        )
        found[f"actions times {best:.3g}"] = share(
            self.env, action=lambda row: np.clip(actions[row] * np.float32(best), -1, 1)
        )
        return found

    def _scaled_error(self, states: States, rows: np.ndarray, scale: float) -> float:
        """Median error where the actions are multiplied by `scale`."""
        actions = self.data.actions
        after = replay(
            self.env, states, rows, lambda row: np.clip(actions[row] * np.float32(scale), -1, 1)
        ).after
        return float(np.median(self._error(after, self.data.observations[rows + 1])))

    def _reward_trials(self, states: States, rows: np.ndarray, own: np.ndarray) -> dict[str, float]:
        """Share of wrong rewards in other versions, and when they are scaled and shifted."""
        found = {}
        for other in related(self.env_id):
            env = make_like(other, self.env)
            if env is not None:
                rewards = replay(env, states, rows).rewards
                found[other] = float(self._wrong(rewards, rows, np.full(len(rows), 1e-4)).mean())
                env.close()
        centred = own - own.mean()
        if centred.any():
            stored = self.data.rewards[rows].astype(np.float64)
            scale = float(centred @ stored / (centred @ centred))
            shift = float(stored.mean() - scale * own.mean())
            wrong = self._wrong(scale * own + shift, rows, np.full(len(rows), 1e-4))
            found[f"{scale:.4g} times its reward plus {shift:.4g}"] = float(wrong.mean())
        return found
