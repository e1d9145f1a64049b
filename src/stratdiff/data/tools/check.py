"""Does an environment's physics match a data file? Single steps are replayed and compared.

The state of a row is set in the simulator, the stored action is applied, and the result is compared
with the next row. A step is short, so errors do not grow: what remains beyond float32 rounding is
another simulator, another model, other actions, or rows that do not follow each other.
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Bool, Float

from stratdiff.data import hdf5
from stratdiff.data.dataset import Dataset
from stratdiff.data.tools import verdict
from stratdiff.data.tools.replay import Action, States, find_states, inside_walls, make_like, replay
from stratdiff.data.tools.verdict import MATCH, ROUNDINGS, Errors, Report
from stratdiff.envs.identity import exact
from stratdiff.envs.mazes import SUCCESS_RADIUS
from stratdiff.errors import UserError
from stratdiff.tasks import Task, load_env, related, task_of_env, version_note

# Errors are in standard deviations of the data, per dimension. A row is off when its error is
# above _OFF and above what rounding its state to float32 explains.
_OFF = 1e-3
# An unrelated state is about one standard deviation away in some dimension.
_UNRELATED = 0.5
# Rows of a file in time order move by less than this part of the distance of random rows.
_IN_ORDER = 0.7
_TRIAL_ROWS = 200
_SUSPECTS = 500
_SCALES = np.exp2(np.delete(np.arange(-20, 21), 20) / 4)  # not 1


def check(path: str | Path, env_id: str = "", rows: int = 2000, seed: int = 0) -> Report:
    """Replay up to `rows` random steps of a D4RL-format file in an environment.

    `env_id` empty: the environment that the file names.

    Raises:
        UserError: the file cannot be read, no environment is known, or the file has other
            dimensions than the environment.
    """
    where = f"data file {str(path)!r}"
    about = hdf5.read_attributes(path)
    env_id = env_id or str(about.get("env_id", ""))
    if not env_id:
        raise UserError(f"{where} does not name its environment; give it with --env.")
    env = load_env(exact(env_id, str(about.get("env_spec", ""))))
    try:
        task = task_of_env(env, env_id)
        dataset = hdf5.read_logged(path, lambda: task.horizon)
        found = (dataset.observations.shape[1], dataset.actions.shape[1])
        if found != (task.obs_dim, task.action_dim):
            raise UserError(
                f"{where} has {found[0]} observation and {found[1]} action dimensions, {env_id} "
                f"has {task.obs_dim} and {task.action_dim}; give the environment that the file was "
                "collected in."
            )
        env.reset(seed=seed)
        return _Check(path, env, task, dataset, rows, seed).report()
    finally:
        env.close()


class _Check:
    """The check of one file in one environment."""

    def __init__(
        self, path: str | Path, env: gymnasium.Env, task: Task, data: Dataset, rows: int, seed: int
    ) -> None:
        self.path, self.env, self.task, self.data = path, env, task, data
        self.env_id, self.made_with = task.env_id, data.mujoco or ""
        self.limit, self.seed = rows, seed
        self.std = data.normalizer()[1].astype(np.float64)
        self.shuffled = _shuffled(data.observations, seed)
        self.goals = hasattr(env.unwrapped, "goal")
        """The reward depends on a goal that is no part of the state."""

    def report(self) -> Report:
        data = self.data
        obs, actions = data.observations, data.actions
        lengths = np.diff(np.flatnonzero(data.ends), prepend=-1)
        tail = len(obs) - int(lengths.sum())
        longest = self.task.longest_trajectory or np.inf
        jumps = _jumps(obs)
        jumps[data.ends[:-1]] = 0
        states, reason = find_states(self.env, self.path, data)
        found = self._with_replay(states, jumps) if states else self._without_replay(jumps, reason)
        report = Report(
            path=str(self.path),
            env_id=self.env_id,
            rows=len(obs),
            duplicates=_duplicates(obs, actions, data.rewards),
            dead_observations=_dead(obs),
            dead_actions=_dead(actions),
            long_episodes=int((np.append(lengths, tail) > longest).sum()),
            **found,
        )
        return report._replace(findings=verdict.findings(report, self.made_with, self.task.horizon))

    def _error(self, found: np.ndarray, stored: np.ndarray) -> Float[np.ndarray, " n"]:
        """Largest of all dimensions, in standard deviations of the data."""
        with np.errstate(invalid="ignore", over="ignore"):
            error = (np.abs(found - stored) / self.std).max(1)
        return np.nan_to_num(error, nan=np.inf, posinf=np.inf)

    def _without_replay(self, jumps: np.ndarray, reason: str) -> dict[str, Any]:
        typical = np.median(jumps[jumps > 0]) if (jumps > 0).any() else np.inf
        breaks = np.flatnonzero(jumps > 5 * typical)
        text = f"not compared with {self.env_id}: {reason}."
        if self.shuffled:
            text, breaks = verdict.SHUFFLED, breaks[:0]
        return {"matches": None, "verdict": text, "breaks": tuple(breaks.tolist()), "trials": {}}

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
        matches = max(off_share, walled) <= MATCH and not self.shuffled
        terminal = np.flatnonzero(states.usable & data.terminals)
        terminal = rng.choice(terminal, min(self.limit // 4, len(terminal)), replace=False)
        last = replay(self.env, states, terminal)
        wrong_last = self._wrong(last.rewards, terminal, 0.0)
        breaks = np.zeros(0, int)
        if matches:
            suspects = np.argsort(-jumps)[:_SUSPECTS]
            suspects = suspects[(jumps[suspects] > 0) & states.usable[suspects]]
            after = replay(self.env, states, suspects).after
            unrelated = self._error(after, obs[suspects + 1]) > _UNRELATED
            breaks = np.union1d(suspects[unrelated], rows[broken])
        observed = None if steps.before is None else self._error(steps.before, obs[rows])
        trials = {}
        elsewhere = observed is not None and bool(np.median(observed) > _OFF)
        if not matches and not self.shuffled and not elsewhere:
            some = np.flatnonzero(~broken)[:: max(1, (~broken).sum() // _TRIAL_ROWS)]
            trials = self._trials(states, rows[some], allowed[some])
        elif self.goals:
            wrong_reward, wrong_last = self._wrong_goals(states, rng), np.zeros(0, bool)
        elif matches and (wrong_reward.any() or wrong_last.any()):
            some = np.concatenate([rows[:_TRIAL_ROWS], terminal])
            own = np.concatenate([steps.rewards[:_TRIAL_ROWS], last.rewards])
            trials = self._reward_trials(states, some, own)
        ended = steps.terminals & ~broken
        known = error[~broken], off[~broken]
        if self.shuffled:
            text = verdict.SHUFFLED
        elif matches:
            text = verdict.matching(self.env_id, *known, floor)
        else:
            text = verdict.differing(self.env_id, self.made_with, *known, elsewhere, walled, trials)
        reward_error = np.abs(steps.rewards - data.rewards[rows])
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
        self, rewards: np.ndarray, rows: np.ndarray, allowed: np.ndarray | float
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
        apart = np.zeros(0, bool)
        if len(rows):
            apart = np.linalg.norm(place - np.median(place, 0), axis=1) > 2 * SUCCESS_RADIUS
            goal = hdf5.read_arrays(self.path, ["infos/goal"]).get("infos/goal")
            if goal is not None and goal.shape == (len(rewards), 2):
                own = np.linalg.norm(place - goal[rows], axis=1) > SUCCESS_RADIUS + 0.01
                apart = min(apart, own, key=np.sum)
        return np.concatenate([np.ones(len(odd), bool), apart])

    def _trials(self, states: States, rows: np.ndarray, allowed: np.ndarray) -> dict[str, float]:
        """Share of rows that are off when something else is assumed."""
        obs, actions, found = self.data.observations, self.data.actions, {}

        def error(env: gymnasium.Env, action: Action | None = None, every: int = 1) -> np.ndarray:
            after = replay(env, states, rows[::every], action).after
            return self._error(after, obs[rows[::every] + 1])

        def share(env: gymnasium.Env, action: Action | None = None) -> float:
            return float((error(env, action) > allowed).mean())

        def scaled(scale: float) -> Action:
            return lambda row: np.clip(actions[row] * np.float32(scale), -1, 1)

        for other in related(self.env_id):
            env = make_like(other, self.env)
            if env is not None:
                found[other] = max(share(env), inside_walls(env, obs))
                env.close()
        env = load_env(self.env_id)
        env.reset(seed=0)
        summed = version_note("3.4") is not None
        env.unwrapped.model.geom_margin[:] *= 0.5 if summed else 2  # type: ignore[attr-defined]
        found[verdict.OLD_MARGINS if summed else verdict.NEW_MARGINS] = share(env)
        env.close()
        for shift, label in ((-1, "actions of the row before"), (1, "actions of the row after")):
            found[label] = share(self.env, np.roll(actions, -shift, 0).__getitem__)
        if min(found.values()) <= MATCH:
            return found
        best = min(_SCALES, key=lambda s: np.median(error(self.env, scaled(s), every=4)))
        found[f"actions times {best:.3g}"] = share(self.env, scaled(best))
        return found

    def _reward_trials(self, states: States, rows: np.ndarray, own: np.ndarray) -> dict[str, float]:
        """Share of wrong rewards in other versions, and when they are scaled and shifted."""
        found = {}
        for other in related(self.env_id):
            env = make_like(other, self.env)
            if env is not None:
                rewards = replay(env, states, rows).rewards
                found[other] = float(self._wrong(rewards, rows, 1e-4).mean())
                env.close()
        centred = own - own.mean()
        if centred.any():
            stored = self.data.rewards[rows].astype(np.float64)
            scale = float(centred @ stored / (centred @ centred))
            shift = float(stored.mean() - scale * own.mean())
            wrong = self._wrong(scale * own + shift, rows, 1e-4)
            found[f"{scale:.4g} times its reward plus {shift:.4g}"] = float(wrong.mean())
        return found


def _shuffled(obs: np.ndarray, seed: int) -> bool:
    """No dimension of the next row is nearer to a row's than a random row's is."""
    obs = obs[:100_000]
    other = np.random.default_rng(seed).permutation(obs)
    step = np.median(np.abs(np.diff(obs, axis=0)), 0)
    apart = np.median(np.abs(obs - other), 0)
    moving = apart > 0
    return len(obs) > 20 and bool(moving.any() and (step > _IN_ORDER * apart)[moving].all())


def _jumps(obs: np.ndarray) -> Float[np.ndarray, " steps"]:
    """How far the next row is: largest of all dimensions, in its median step."""
    step = np.abs(np.diff(obs, axis=0))
    typical = np.median(step, 0) if len(step) else np.ones(obs.shape[1])
    moving = typical > 0
    if not moving.any():
        return np.zeros(len(step))
    return (step[:, moving] / typical[moving]).max(1).astype(np.float64)


def _duplicates(*arrays: np.ndarray) -> int:
    """Rows equal to an earlier one. By a 64-bit hash: a million rows in a fraction of a second."""
    rng, total = np.random.default_rng(0), np.zeros(len(arrays[0]), np.uint64)
    for array in arrays:
        words = array.reshape(len(array), -1).view(np.uint32)
        for column in words.T:
            factor = rng.integers(2**63, dtype=np.uint64)
            total += (column.astype(np.uint64) + np.uint64(1)) * factor
            total ^= total >> np.uint64(29)
            total *= np.uint64(0xBF58476D1CE4E5B9)
    return len(total) - len(np.unique(total))


def _dead(array: np.ndarray) -> tuple[int, ...]:
    """Dimensions that never change."""
    return tuple(np.flatnonzero(array.max(0) == array.min(0)).tolist())
