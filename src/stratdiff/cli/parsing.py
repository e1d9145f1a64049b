"""What the commands share: parsing, and the table at the end of a run."""

import dataclasses
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from stratdiff import registry
from stratdiff.errors import UserError
from stratdiff.sinks.progress import number


@dataclasses.dataclass(frozen=True)
class Trust:
    """Of commands that read files which may name code."""

    trust_modules: bool = False
    """Import every module:Name that a config, an experiment or a data file names."""


def parse(kind: Any, args: list[str], command: str, **options: Any) -> Any:
    """The options of a command; a bad one ends the program with exit code 2."""
    found = tyro.cli(kind, args=args, prog=f"stratdiff {command}", **options)
    if getattr(found, "trust_modules", False):
        registry.trust("*")
    return found


def at_least(option: str, value: int | None, least: int) -> None:
    """Refuse a smaller number; None is the default.

    Raises:
        UserError: it is smaller.
    """
    if value is not None and value < least:
        raise UserError(f"{option} is {value}; it must be {least} or more.")


def show_result(result: Any) -> int:
    """The small table at the end of a run."""
    summary, console = result.summary, Console(markup=False)
    if summary["score"]:
        table = Table(title="normalised score" if summary["normalized"] else "return")
        for column in ("seed", "before", "after"):
            table.add_column(column, justify="right")
        before, after = result.scores["before"], result.scores["after"]
        for seed, b, a in zip(summary["seeds"], before, after, strict=True):
            table.add_row(str(seed), number(b), number(a))
        score = summary["score"]
        table.add_section()
        table.add_row("mean", *(number(score[when]["mean"]) for when in ("before", "after")))
        console.print(table)
    data = summary["dataset"]
    if data["mean_score"] is not None:
        console.print(f"mean episode of the data: {data['mean_score']:.1f}", highlight=False)
    total = sum(summary["seconds"].values())
    said = f"{total / 60:.1f} minutes; results in {result.directory}/"
    console.print(said, highlight=False)
    console.print("  curves.png  summary.json  metrics.jsonl  policy.safetensors  config.json")
    return 0
