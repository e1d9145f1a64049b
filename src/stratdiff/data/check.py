"""Does an environment's physics match a data file? Replay single steps and see.

The state of a row is set in the simulator, the stored action applied, and what comes out compared
with the next row. A step is short, so errors do not grow: what remains beyond float32 rounding is
another simulator, another model, other actions, or rows that do not follow each other.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from jaxtyping import Bool, Float, Int
from rich.console import Group, RenderableType
from rich.table import Table

from stratdiff.data import d4rl
from stratdiff.data.dataset import Dataset
from stratdiff.envs import antmaze
from stratdiff.errors import UserError
from stratdiff.tasks import Task, find_task, make_env, version_note

# Errors are in standard deviations of the data, per dimension. A row is off when its error is
# above _OFF and above what rounding its state to float32 explains.
_OFF = 1e-3
_ROUNDINGS = 30
_MATCH = 0.005
"""Share of rows that may be off where the physics matches."""
# An unrelated state is about one standard deviation away in some dimension.
_UNRELATED = 0.5
_TRIAL_ROWS = 200
_SUSPECTS = 500
# Rows of a file in time order move by less than this part of the distance of random rows.
_IN_ORDER = 0.7
_SCALES = np.exp2(np.arange(-20, 21) / 4)


@dataclasses.dataclass(frozen=True)
class Errors:
    """Quantiles of an error over the replayed rows."""

    median: float
    q95: float
    q99: float
    max: float


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check` finds."""

    path: str
    env_id: str
    rows: int
    matches: bool | None
    """The environment's physics is that of the file; None: it could not be replayed."""
    verdict: str
    """One sentence: match or not, and the likely cause."""
    duplicates: int
    """Rows equal to an earlier row."""
    dead_observations: tuple[int, ...]
    dead_actions: tuple[int, ...]
    """Dimensions that never change."""
    long_episodes: int
    """Trajectories longer than the environment's horizon."""
    breaks: tuple[int, ...]
    """Rows without an end flag that the next row does not continue, as far as they were found."""
    findings: tuple[str, ...] = ()
    """A sentence on everything that is not as it should be."""
    replayed: int = 0
    """Steps replayed; the rest is empty where none could be."""
    state_from: str = "nothing"
    """Where their states came from: infos/qpos, observations."""
    off_share: float = 0.0
    """Share of the replayed steps with an error beyond rounding."""
    step_error: Errors | None = None
    """Next observation, in standard deviations of the data, largest of all dimensions."""
    floor: Errors | None = None
    """What rounding the state to float32 does to it."""
    observation_error: Errors | None = None
    """Observation of the set state against the stored one."""
    reward_error: Errors | None = None
    """In reward units; None: the reward depends on a goal that is no part of the state."""
    trials: dict[str, float] = dataclasses.field(default_factory=dict)
    """Other explanations that were tried, and the share of steps off (or rewards) under each."""
    wrong_rewards: int = 0
    """Replayed rows whose reward the environment would not give."""
    wrong_terminals: int = 0
    """Replayed rows that the environment would end and the file does not, or the reverse."""


@dataclasses.dataclass(frozen=True)
class _States:
    """Simulator states of the file's rows."""

    source: str
    qpos: Float[np.ndarray, "rows nq"]
    qvel: Float[np.ndarray, "rows nv"]
    usable: Bool[np.ndarray, " rows"]


@dataclasses.dataclass(frozen=True)
class _Replay:
    """What the environment gives for some rows."""

    before: Float[np.ndarray, "n obs"] | None
    """Observation of the set state; None: the environment does not tell."""
    after: Float[np.ndarray, "n obs"]
    rewards: Float[np.ndarray, " n"]
    terminals: Bool[np.ndarray, " n"]


def check(path: str | Path, env_id: str = "", rows: int = 2000, seed: int = 0) -> Report:
    """Replay up to `rows` random steps of a D4RL-format file in an environment.

    `env_id` empty: the environment that the file names.

    Raises:
        UserError: the file cannot be read, no environment is known, or the file has other
            dimensions than the environment.
    """
    attributes = d4rl.read_attributes(path)
    env_id = env_id or str(attributes.get("env_id", ""))
    if not env_id:
        raise UserError(
            f"data file {str(path)!r} does not name its environment; give it with --env."
        )
    task = find_task(env_id)
    dataset = d4rl.read(path, task.horizon)
    found = (dataset.observations.shape[1], dataset.actions.shape[1])
    if found != (task.obs_dim, task.action_dim):
        raise UserError(
            f"data file {str(path)!r} has {found[0]} observation and {found[1]} action dimensions, "
            f"{env_id} has {task.obs_dim} and {task.action_dim}; give the environment that the "
            "file was collected in."
        )
    env = make_env(env_id)
    try:
        env.reset(seed=seed)
        return _Check(path, env, task, dataset, attributes, rows, seed).report()
    finally:
        env.close()


class _Check:
    """One file in one environment; `report` does everything."""

    def __init__(
        self,
        path: str | Path,
        env: gymnasium.Env,
        task: Task,
        dataset: Dataset,
        attributes: dict[str, str | int | float],
        rows: int,
        seed: int,
    ) -> None:
        self.path, self.env, self.task, self.data = path, env, task, dataset
        self.env_id, self.made_with = task.env_id, str(attributes.get("mujoco", ""))
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
            "duplicates": _duplicates(obs, actions, data.rewards),
            "dead_observations": _dead(obs),
            "dead_actions": _dead(actions),
            "long_episodes": int((np.append(lengths, tail) > longest).sum()),
        }
        jumps = _jumps(obs)
        jumps[data.ends[:-1]] = 0
        states, reason = self._states()
        if states is None:
            result = self._without_replay(jumps, reason)
        else:
            result = self._with_replay(states, jumps)
        report = Report(path=str(self.path), env_id=self.env_id, rows=len(obs), **result, **facts)
        return dataclasses.replace(report, findings=self._findings(report))

    def _states(self) -> tuple[_States | None, str]:
        """The simulator's states of all rows, or None and why not."""
        obs, base = self.data.observations, self.env.unwrapped
        model = getattr(base, "model", None)
        if not isinstance(model, mujoco.MjModel) or not hasattr(base, "set_state"):
            return None, f"{self.env_id} is no MuJoCo environment whose state can be set"
        stored = d4rl.read_arrays(self.path, ("infos/qpos", "infos/qvel"))
        qpos, qvel = stored.get("infos/qpos"), stored.get("infos/qvel")
        if qpos is not None and qvel is not None:
            shapes = ((len(obs), model.nq), (len(obs), model.nv))
            if (qpos.shape, qvel.shape) == shapes:
                usable = np.isfinite(qpos).all(1) & np.isfinite(qvel).all(1)
                return _States("infos/qpos, infos/qvel", qpos, qvel, usable), ""
        # Observations that are qpos and qvel, without the first coordinates of the root: those
        # change nothing on a flat floor.
        hidden = model.nq + model.nv - obs.shape[1]
        if 0 <= hidden <= 2:
            qpos = np.pad(obs[:, : model.nq - hidden], ((0, 0), (hidden, 0)))
            qvel = obs[:, model.nq - hidden :]
            # Hopper and Walker2d clip velocities in the observation: the state is lost there.
            states = _States("observations", qpos, qvel, ~(np.abs(qvel) == 10).any(1))
            some = np.flatnonzero(states.usable)[:20]
            before = self._replay(self.env, states, some).before
            if before is not None and np.allclose(before, obs[some], rtol=1e-4, atol=1e-4):
                return states, ""
        return None, "the file has no infos/qpos and infos/qvel, and the observations are no state"

    def _replay(
        self,
        env: gymnasium.Env,
        states: _States,
        rows: Int[np.ndarray, " n"],
        action: Callable[[int], np.ndarray] | None = None,
        rng: np.random.Generator | None = None,
    ) -> _Replay:
        """One step from every row; with `rng` from states within float32 rounding of it."""
        base = env.unwrapped
        observe = getattr(base, "_get_obs", None) or getattr(base, "_observation", None)
        before, after, rewards, terminals = [], [], [], []
        for row in rows:
            state = [states.qpos[row], states.qvel[row]]
            if rng is not None:
                state = [x + rng.uniform(-0.5, 0.5, x.shape) * np.spacing(np.abs(x)) for x in state]
            base.set_state(*(x.astype(np.float64) for x in state))  # type: ignore[attr-defined]
            if observe is not None:
                before.append(observe())
            new, reward, terminal, _, _ = env.step(
                self.data.actions[row] if action is None else action(int(row))
            )
            after.append(new)
            rewards.append(float(reward))
            terminals.append(bool(terminal))
        shape = (len(rows), self.data.observations.shape[1])
        return _Replay(
            before=np.array(before).reshape(shape) if observe is not None else None,
            after=np.array(after, np.float64).reshape(shape),
            rewards=np.array(rewards),
            terminals=np.array(terminals, bool),
        )

    def _error(self, found: np.ndarray, stored: np.ndarray) -> Float[np.ndarray, " n"]:
        """Largest of all dimensions, in standard deviations of the data."""
        with np.errstate(invalid="ignore", over="ignore"):
            error = (np.abs(found - stored) / self.std).max(1)
        return np.nan_to_num(error, nan=np.inf, posinf=np.inf)

    def _without_replay(self, jumps: np.ndarray, reason: str) -> dict[str, Any]:
        typical = np.median(jumps[jumps > 0]) if (jumps > 0).any() else np.inf
        breaks = np.flatnonzero(jumps > 5 * typical)
        verdict = f"not compared with {self.env_id}: {reason}."
        if self._shuffled():
            verdict, breaks = _SHUFFLED, breaks[:0]
        return {"matches": None, "verdict": verdict, "breaks": tuple(breaks.tolist())}

    def _with_replay(self, states: _States, jumps: np.ndarray) -> dict[str, Any]:
        data, rng = self.data, np.random.default_rng(self.seed)
        obs = data.observations
        inner = np.flatnonzero(states.usable[:-1] & ~data.ends[:-1])
        if not len(inner):
            return self._without_replay(jumps, "no row has a usable state and a next row")
        rows = np.sort(rng.choice(inner, min(self.limit, len(inner)), replace=False))
        replay = self._replay(self.env, states, rows)
        rounded = self._replay(self.env, states, rows, rng=rng)
        floor = self._error(rounded.after, replay.after)
        allowed = _OFF + _ROUNDINGS * floor
        error = self._error(replay.after, obs[rows + 1])
        off = ~(error <= allowed)
        reward_floor = _ROUNDINGS * np.abs(rounded.rewards - replay.rewards)
        wrong_reward = self._wrong(replay.rewards, rows, reward_floor)
        # A step to an unrelated state whose reward is right is a missing flag, not other physics.
        # With a goal the reward says nothing; the state must have jumped.
        right = jumps[rows] > 5 * np.median(jumps[inner]) if self.goals else ~wrong_reward
        broken = off & (error > _UNRELATED) & right
        if broken.mean() > 0.5:  # not a flag forgotten here and there
            broken[:] = False
        off &= ~broken
        wrong_reward &= ~off  # where the step itself is another, so is its reward
        off_share = float(off.mean())
        walled = _inside_walls(self.env, obs)
        shuffled = self._shuffled()
        matches = max(off_share, walled) <= _MATCH and not shuffled
        terminal = np.flatnonzero(states.usable & data.terminals)
        terminal = rng.choice(terminal, min(self.limit // 4, len(terminal)), replace=False)
        last = self._replay(self.env, states, terminal)
        wrong_last = self._wrong(last.rewards, terminal, np.zeros(len(terminal)))
        breaks = np.zeros(0, int)
        if matches:
            suspects = np.argsort(-jumps)[:_SUSPECTS]
            suspects = suspects[(jumps[suspects] > 0) & states.usable[suspects]]
            after = self._replay(self.env, states, suspects).after
            unrelated = self._error(after, obs[suspects + 1]) > _UNRELATED
            breaks = np.union1d(suspects[unrelated], rows[broken])
        before = replay.before
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
            own = np.concatenate([replay.rewards[:_TRIAL_ROWS], last.rewards])
            trials = self._reward_trials(states, some, own)
        ended = replay.terminals & ~broken
        return {
            "matches": bool(matches),
            "verdict": self._verdict(
                bool(matches),
                shuffled,
                error[~broken],
                floor,
                off[~broken],
                elsewhere,
                walled,
                trials,
            ),
            "replayed": len(rows),
            "state_from": states.source,
            "off_share": off_share,
            "observation_error": None if observed is None else _errors(observed),
            "step_error": _errors(error),
            "floor": _errors(floor),
            "reward_error": None
            if self.goals
            else _errors(np.abs(replay.rewards - data.rewards[rows])),
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

    def _wrong_goals(self, states: _States, rng: np.random.Generator) -> Bool[np.ndarray, " n"]:
        """Rewards that are not 0 or 1, and rewarded steps that end apart from the goal.

        The goal is the row's infos/goal or, as in D4RL's relabelled files, one for all rows.
        """
        rewards = self.data.rewards
        odd = np.flatnonzero((rewards != 0) & (rewards != 1))
        rows = np.flatnonzero((rewards == 1) & states.usable)
        rows = rng.choice(rows, min(_SUSPECTS, len(rows)), replace=False)
        place = self._replay(self.env, states, rows).after[:, :2]
        radius = antmaze.SUCCESS_RADIUS
        if len(rows):
            apart = np.linalg.norm(place - np.median(place, 0), axis=1) > 2 * radius
            goal = d4rl.read_arrays(self.path, ["infos/goal"]).get("infos/goal")
            if goal is not None and goal.shape == (len(rewards), 2):
                own = np.linalg.norm(place - goal[rows], axis=1) > radius + 0.01
                apart = min(apart, own, key=np.sum)
        else:
            apart = np.zeros(0, bool)
        return np.concatenate([np.ones(len(odd), bool), apart])

    def _shuffled(self) -> bool:
        """No dimension of the next row is nearer to a row's than a random row's is."""
        obs = self.data.observations[:100_000]
        other = np.random.default_rng(self.seed).permutation(obs)
        step = np.median(np.abs(np.diff(obs, axis=0)), 0)
        apart = np.median(np.abs(obs - other), 0)
        moving = apart > 0
        return len(obs) > 20 and bool(moving.any() and (step > _IN_ORDER * apart)[moving].all())

    def _trials(self, states: _States, rows: np.ndarray, allowed: np.ndarray) -> dict[str, float]:
        """Share of rows that are off when something else is assumed."""
        obs, actions, found = self.data.observations, self.data.actions, {}

        def share(env: gymnasium.Env, action: Callable[[int], np.ndarray] | None = None) -> float:
            after = self._replay(env, states, rows, action).after
            return float((self._error(after, obs[rows + 1]) > allowed).mean())

        for other in _siblings(self.env_id):
            env = _make_like(other, self.env)
            if env is not None:
                found[other] = max(share(env), _inside_walls(env, obs))
                env.close()
        env = make_env(self.env_id)
        env.reset(seed=0)
        summed = version_note("3.4") is not None
        env.unwrapped.model.geom_margin[:] *= 0.5 if summed else 2  # type: ignore[attr-defined]
        found[_OLD_MARGINS if summed else _NEW_MARGINS] = share(env)
        env.close()
        for shift, label in ((-1, "actions of the row before"), (1, "actions of the row after")):
            found[label] = share(self.env, action=np.roll(actions, -shift, 0).__getitem__)
        if min(found.values()) <= _MATCH:
            return found
        best = min(
            (s for s in _SCALES if s != 1),
            key=lambda s: self._scaled_error(states, rows[::4], s),
        )
        found[f"actions times {best:.3g}"] = share(
            self.env, action=lambda row: np.clip(actions[row] * np.float32(best), -1, 1)
        )
        return found

    def _scaled_error(self, states: _States, rows: np.ndarray, scale: float) -> float:
        """Median error when the environment had got the actions times `scale`."""
        actions = self.data.actions
        replay = self._replay(
            self.env, states, rows, lambda row: np.clip(actions[row] * np.float32(scale), -1, 1)
        )
        return float(np.median(self._error(replay.after, self.data.observations[rows + 1])))

    def _reward_trials(
        self, states: _States, rows: np.ndarray, own: np.ndarray
    ) -> dict[str, float]:
        """Share of wrong rewards in other versions, and when they are scaled and shifted."""
        found = {}
        for other in _siblings(self.env_id):
            env = _make_like(other, self.env)
            if env is not None:
                rewards = self._replay(env, states, rows).rewards
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

    def _verdict(
        self,
        matches: bool,
        shuffled: bool,
        error: np.ndarray,
        floor: np.ndarray,
        off: np.ndarray,
        elsewhere: bool,
        walled: float,
        trials: dict[str, float],
    ) -> str:
        if shuffled:
            return _SHUFFLED
        if matches:
            exact = np.quantile(error, 0.98) <= _ROUNDINGS * max(np.quantile(floor, 0.98), 1e-7)
            apart = f" ({int(off.sum())} of {len(off):,} steps apart)" if off.any() else ""
            return (
                f"{self.env_id}'s physics matches the data: the typical replayed step is off by "
                f"{np.median(error):.1g} of a standard deviation{apart}, "
                f"{'as' if exact else 'more than'} float32 rounding explains."
            )
        text = (
            f"{self.env_id}'s physics does not match the data: {_percent(off.mean())} of the "
            f"replayed steps are off, typically by {np.median(error):.1g} of a standard deviation"
        )
        if walled > _MATCH:
            text += f", and {_percent(walled)} of the positions are inside its walls"
        if elsewhere:
            return (
                f"{text}; the stored observations are not what it shows at infos/qpos and "
                "infos/qvel either, so they come from another environment or have another layout."
            )
        best = min(trials, key=lambda label: trials[label])
        if trials[best] <= _MATCH and best in gymnasium.registry:
            return f"{text}; {best}'s does."
        if trials[best] <= _MATCH:
            return f"{text}; {_CAUSES.get(best, 'with {} it matches').format(best)}."
        if trials[best] < 0.5 * off.mean():
            return (
                f"{text}; {best} comes nearest ({_percent(trials[best])} off) but does not explain "
                "them all."
            )
        made = f"the file says MuJoCo {self.made_with}, " if self.made_with else ""
        return (
            f"{text}; no other version, contact margin or action scale explains it, so the model "
            "was probably another (masses, gravity, time step) or MuJoCo was "
            f"({made}{mujoco.__version__} is installed)."
        )

    def _findings(self, report: Report) -> tuple[str, ...]:
        out = []
        note = version_note(self.made_with) if self.made_with else None
        if note:
            out.append(note)
        if report.breaks:
            first = ", ".join(str(row) for row in report.breaks[:3])
            seem = "are not" if report.replayed else "seem not to be"
            out.append(
                f"{_count(len(report.breaks), 'row')} without an end flag {seem} continued by the "
                f"next row (first: {first}): set timeouts there, or steps lead from one episode "
                "into another."
            )
        if report.matches and report.wrong_rewards:
            out.append(self._reward_finding(report))
        if report.matches and report.wrong_terminals:
            out.append(
                f"{_count(report.wrong_terminals, 'replayed row')} with another terminal flag than "
                f"{self.env_id} gives."
            )
        if report.duplicates:
            out.append(f"{_count(report.duplicates, 'row')} equal to an earlier row.")
        for what, dead in (
            ("observation", report.dead_observations),
            ("action", report.dead_actions),
        ):
            if dead:
                listed = ", ".join(str(i) for i in dead)
                out.append(f"{what} dimensions that never change: {listed}.")
        if report.long_episodes:
            out.append(
                f"{_count(report.long_episodes, 'episode')} longer than the {self.task.horizon} "
                f"steps of {self.env_id}."
            )
        return tuple(out)

    def _reward_finding(self, report: Report) -> str:
        text = (
            f"{_count(report.wrong_rewards, 'replayed row')} with a reward that {self.env_id} "
            "would not give"
        )
        best = min(report.trials, key=lambda label: report.trials[label], default="")
        if best and report.trials[best] <= _MATCH:
            return f"{text}; {best} gives them."
        return f"{text}."


_SHUFFLED = (
    "the rows are not in time order: the next row is as far from a row as a random one is; write "
    "the steps of every episode one after another."
)
_NEW_MARGINS = "the summed contact margins of MuJoCo 3.5 and later"
_OLD_MARGINS = "the smaller contact margins of MuJoCo before 3.5"
_CAUSES = {
    _NEW_MARGINS: "with {} it matches: D4RL's physics is that of MuJoCo 3.4, so collect it anew",
    _OLD_MARGINS: "with {} it matches: install mujoco 3.4",
    "actions of the row before": "with the {} it matches: store the action taken in each row",
    "actions of the row after": "with the {} it matches: store the action taken in each row",
}


def _siblings(env_id: str) -> list[str]:
    """Other versions of an environment, or other mazes."""
    maze = "stratdiff/AntMaze-"
    stem = maze if env_id.startswith(maze) else re.sub(r"\d+$", "", env_id)
    pattern = re.escape(stem) + (r".*" if stem == maze else r"\d+$")
    return sorted(
        (i for i in gymnasium.registry if re.match(pattern, i) and i != env_id), reverse=True
    )


def _make_like(env_id: str, like: gymnasium.Env) -> gymnasium.Env | None:
    """The environment, reset; None: it cannot be made here or has another state or other sizes."""
    try:
        env = make_env(env_id)
    except UserError:
        return None
    sizes = [
        (e.observation_space.shape, e.action_space.shape, m.nq, m.nv)
        for e in (env, like)
        if (m := getattr(e.unwrapped, "model", None)) is not None
    ]
    if len(sizes) < 2 or sizes[0] != sizes[1] or not hasattr(env.unwrapped, "set_state"):
        env.close()
        return None
    env.reset(seed=0)
    return env


def _inside_walls(env: gymnasium.Env, obs: np.ndarray) -> float:
    """Share of the ant's positions that are inside a maze's walls; 0 where there is no maze."""
    maze = getattr(env.unwrapped, "maze", None)
    if maze not in antmaze.MAZES:
        return 0.0
    walls = np.pad(antmaze.walls(maze), 1, constant_values=True)
    cell = antmaze.xy_cell(maze, obs[:, :2]) + 1
    cell = np.clip(cell, 0, np.array(walls.shape) - 1)
    return float(walls[cell[:, 0], cell[:, 1]].mean())


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
            total += (column.astype(np.uint64) + np.uint64(1)) * rng.integers(
                2**63, dtype=np.uint64
            )
            total ^= total >> np.uint64(29)
            total *= np.uint64(0xBF58476D1CE4E5B9)
    return len(total) - len(np.unique(total))


def _dead(array: np.ndarray) -> tuple[int, ...]:
    return tuple(np.flatnonzero(array.max(0) == array.min(0)).tolist())


def _errors(values: np.ndarray) -> Errors:
    return Errors(*np.quantile(values, (0.5, 0.95, 0.99, 1)).tolist())


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def table(report: Report) -> RenderableType:
    """The report for a terminal, at most 80 columns."""
    parts: list[RenderableType] = [
        f"{report.path}\nagainst {report.env_id}: {report.rows:,} rows, {report.replayed:,} steps "
        f"replayed, states from {report.state_from}"
    ]
    errors = Table()
    for column in ("error", "median", "95 %", "99 %", "max"):
        errors.add_column(column, justify="left" if column == "error" else "right")
    for label, values in (
        ("one step (std)", report.step_error),
        ("  of which float32 rounding", report.floor),
        ("observation of the state (std)", report.observation_error),
        ("reward", report.reward_error),
    ):
        if values is not None:
            errors.add_row(label, *(f"{x:.1e}" for x in dataclasses.astuple(values)))
    if errors.row_count:
        parts.append(errors)
    if report.trials:
        tried = "; ".join(f"{k}: {_percent(v)}" for k, v in report.trials.items())
        parts.append(f"off if it were: {tried}")
    parts.append(f"\n{report.verdict}")
    parts += [f"- {finding}" for finding in report.findings]
    return Group(*parts)
