"""What `check` finds, in numbers, in sentences and as a table."""

from importlib import metadata
from typing import NamedTuple

import gymnasium
import numpy as np
from rich.console import Group, RenderableType
from rich.table import Column, Table

from stratdiff.tasks import version_note

MATCH = 0.005
"""Share of rows that may be off where the physics matches."""
ROUNDINGS = 30
"""How many times float32 rounding explains an error."""
SHUFFLED = (
    "the rows are not in time order: the next row is as far from a row as a random one is; write "
    "the steps of every episode one after another."
)
NEW_MARGINS = "the summed contact margins of MuJoCo 3.5 and later"
OLD_MARGINS = "the smaller contact margins of MuJoCo before 3.5"
_CAUSES = {
    NEW_MARGINS: "with {} it matches: D4RL's physics is that of MuJoCo 3.4, so collect it anew",
    OLD_MARGINS: "with {} it matches: install mujoco 3.4",
    "actions of the row before": "with the {} it matches: store the action taken in each row",
    "actions of the row after": "with the {} it matches: store the action taken in each row",
}


class Errors(NamedTuple):
    """Quantiles of an error over the replayed rows."""

    median: float
    q95: float
    q99: float
    max: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Errors":
        """Those of some values."""
        return cls(*np.quantile(values, (0.5, 0.95, 0.99, 1)).tolist())


class Report(NamedTuple):
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
    trials: dict[str, float]
    """Other explanations that were tried, and the share of steps off (or rewards) under each."""
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
    wrong_rewards: int = 0
    """Replayed rows whose reward the environment would not give."""
    wrong_terminals: int = 0
    """Replayed rows that the environment would end and the file does not, or the reverse."""


def matching(env_id: str, error: np.ndarray, off: np.ndarray, floor: np.ndarray) -> str:
    """The sentence where the physics matches; `floor` (n,): what rounding does, see `differing`."""
    exact = np.quantile(error, 0.98) <= ROUNDINGS * max(np.quantile(floor, 0.98), 1e-7)
    apart = f" ({int(off.sum())} of {len(off):,} steps apart)" if off.any() else ""
    return (
        f"{env_id}'s physics matches the data: the typical replayed step is off by "
        f"{np.median(error):.1g} of a standard deviation{apart}, "
        f"{'as' if exact else 'more than'} float32 rounding explains."
    )


def differing(
    env_id: str,
    made_with: str,
    error: np.ndarray,
    off: np.ndarray,
    elsewhere: bool,
    walled: float,
    trials: dict[str, float],
) -> str:
    """The sentence where the physics does not match, with the likely cause.

    `error` (n,): of the replayed steps, in standard deviations; `off` (n,): those beyond rounding;
    `elsewhere`: the stored observations are not those of the stored states; `walled`: share of the
    positions inside walls; `trials`: see `Report`.
    """
    text = (
        f"{env_id}'s physics does not match the data: {_percent(off.mean())} of the "
        f"replayed steps are off, typically by {np.median(error):.1g} of a standard deviation"
    )
    if walled > MATCH:
        text += f", and {_percent(walled)} of the positions are inside its walls"
    if elsewhere:
        return (
            f"{text}; the stored observations are not what it shows at infos/qpos and "
            "infos/qvel either, so they come from another environment or have another layout."
        )
    best = min(trials, key=trials.__getitem__)
    if trials[best] <= MATCH and best in gymnasium.registry:
        return f"{text}; {best}'s does."
    if trials[best] <= MATCH:
        return f"{text}; {_CAUSES.get(best, 'with {} it matches').format(best)}."
    if trials[best] < 0.5 * off.mean():
        return (
            f"{text}; {best} comes nearest ({_percent(trials[best])} off) but does not explain "
            "them all."
        )
    made = f"the file says MuJoCo {made_with}, " if made_with else ""
    return (
        f"{text}; no other version, contact margin or action scale explains it, so the model "
        "was probably another (masses, gravity, time step) or MuJoCo was "
        f"({made}{metadata.version('mujoco')} is installed)."
    )


def findings(report: Report, made_with: str, horizon: int | None) -> tuple[str, ...]:
    """A sentence on everything that is not as it should be."""
    note = version_note(made_with) if made_with else None
    out = [note] if note else []
    if report.breaks:
        first = ", ".join(map(str, report.breaks[:3]))
        seem = "are not" if report.replayed else "seem not to be"
        out.append(
            f"{_count(len(report.breaks), 'row')} without an end flag {seem} continued by the "
            f"next row (first: {first}): set timeouts there, or steps lead from one episode "
            "into another."
        )
    if report.matches and report.wrong_rewards:
        best = min(report.trials, key=report.trials.__getitem__, default="")
        gives = f"; {best} gives them" if report.trials.get(best, 1) <= MATCH else ""
        out.append(
            f"{_count(report.wrong_rewards, 'replayed row')} with a reward that {report.env_id} "
            f"would not give{gives}."
        )
    if report.matches and report.wrong_terminals:
        out.append(
            f"{_count(report.wrong_terminals, 'replayed row')} with another terminal flag than "
            f"{report.env_id} gives."
        )
    if report.duplicates:
        out.append(f"{_count(report.duplicates, 'row')} equal to an earlier row.")
    for what, dead in (("observation", report.dead_observations), ("action", report.dead_actions)):
        if dead:
            out.append(f"{what} dimensions that never change: {', '.join(map(str, dead))}.")
    if report.long_episodes:
        out.append(
            f"{_count(report.long_episodes, 'episode')} longer than the {horizon} "
            f"steps of {report.env_id}."
        )
    return tuple(out)


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
    quantiles = ("median", "95 %", "99 %", "max")
    errors = Table("error", *(Column(label, justify="right") for label in quantiles))
    for label, values in (
        ("one step (std)", report.step_error),
        ("  of which float32 rounding", report.floor),
        ("observation of the state (std)", report.observation_error),
        ("reward", report.reward_error),
    ):
        if values is not None:
            errors.add_row(label, *(f"{x:.1e}" for x in values))
    if errors.row_count:
        parts.append(errors)
    if report.trials:
        tried = "; ".join(f"{k}: {_percent(v)}" for k, v in report.trials.items())
        parts.append(f"off if it were: {tried}")
    parts.append(f"\n{report.verdict}")
    parts += [f"- {finding}" for finding in report.findings]
    return Group(*parts)
