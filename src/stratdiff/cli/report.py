"""`stratdiff report`."""

import dataclasses
import sys
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stratdiff.cli.parsing import parse
from stratdiff.report.page import report, short_rows


@dataclasses.dataclass(frozen=True)
class _Report:
    """Make one HTML page, figures and tables of finished runs."""

    directories: tyro.conf.Positional[tuple[str, ...]]
    """Run directories, directories above them, or an earlier report's results.json."""
    out: str = "report"
    """Directory of the report; an earlier report there is replaced."""


def main(args: list[str]) -> int:
    """Write the page and print the scores."""
    parsed = parse(_Report, args, "report")
    runs, left_out = report(parsed.directories, parsed.out)
    for missing in left_out:
        print(f"left out: {missing.path}: {missing.reason}.", file=sys.stderr)
    table = Table(title="score, mean over the seeds")
    for column in ("task", "base", "variant"):
        table.add_column(column, overflow="fold")
    for column in ("before", "after", "over base [95 %]"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in short_rows(runs):
        table.add_row(*map(Text, row))
    Console().print(table)
    print(f"the page: {Path(parsed.out) / 'index.html'}")
    return 0
