"""`stratdiff eval`."""

import dataclasses
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from stratdiff import hub, process
from stratdiff.cli.parsing import Trust, at_least, parse
from stratdiff.policy import Policy
from stratdiff.sinks.progress import number
from stratdiff.tasks import episode_seed
from stratdiff.training.loop import evaluate, run_config
from stratdiff.video import check_name, film


@dataclasses.dataclass(frozen=True)
class _Eval(Trust):
    """Run episodes of a run's policies."""

    directory: tyro.conf.Positional[str] = tyro.MISSING
    """The run directory, or hf://owner/repo on the Hugging Face hub."""
    episodes: int = 10
    """Episodes per policy."""
    seed: int | None = None
    """Seed of the episodes; None: those of the run's own evaluations."""
    video: str = ""
    """Film the first episode of the first seed's policy, as .mp4 or .gif."""


def main(args: list[str]) -> int:
    """Evaluate a run's newest policies."""
    parsed = parse(_Eval, args, "eval")
    at_least("--episodes", parsed.episodes, 1)
    at_least("--seed", parsed.seed, 0)
    if parsed.video:
        check_name(Path(parsed.video))
    directory = hub.local(parsed.directory)
    found = evaluate(directory, parsed.episodes, parsed.seed)
    table = Table(title=f"{found['environment']}, {parsed.episodes} episodes")
    for column in ("seed", "score", "± over episodes", "return"):
        table.add_column(column, justify="right")
    for row in zip(*(found[k] for k in ("seeds", "score", "score_std", "return")), strict=True):
        table.add_row(str(row[0]), *map(number, row[1:]))
    Console(markup=False).print(table)
    if parsed.video:
        config = run_config(directory)
        seed = config.seeds[0] if parsed.seed is None else parsed.seed
        policies = {"": Policy.load(directory / "policy.safetensors")}
        with process.deferring():
            film(Path(parsed.video), config.environment, policies, [episode_seed(seed, 1, 0)])
        print(parsed.video)
    return 0
