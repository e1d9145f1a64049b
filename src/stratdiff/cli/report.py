"""`stratdiff report`."""

import dataclasses
import signal
import sys
import time
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stratdiff import process
from stratdiff.cli.parsing import parse
from stratdiff.report import results
from stratdiff.report.page import check_out, report, short_rows
from stratdiff.report.runs import LeftOut, Run


@dataclasses.dataclass(frozen=True)
class _Report:
    """Make one HTML page, figures and tables of finished runs."""

    directories: tyro.conf.Positional[tuple[str, ...]]
    """Run directories, directories above them, or an earlier report's results.json."""
    out: str = "report"
    """Directory of the report; an earlier report there is replaced."""
    watch: bool = False
    """Make the page again whenever a run is finished, until none is trained any more or Ctrl-C."""


# Seconds between two looks at the runs.
_INTERVAL = 5.0


def main(args: list[str]) -> int:
    """Write the page and print the scores."""
    parsed = parse(_Report, args, "report")
    runs, left_out = (_watched if parsed.watch else report)(parsed.directories, parsed.out)
    for missing in left_out:
        print(f"left out: {missing.path}: {missing.reason}.", file=sys.stderr)
    _show(runs)
    print(f"the page: {Path(parsed.out) / 'index.html'}")
    return 0


def _watched(paths: tuple[str, ...], out: str) -> tuple[list[Run], list[LeftOut]]:
    """As `report`, made again whenever a run is finished; the last one."""
    check_out(Path(out))
    page, seen, made = Path(out) / "index.html", None, None
    try:
        while True:
            trained, times = results.state(paths)
            finished = {run: when for run, when in times.items() if when}
            now = time.strftime("%H:%M:%S")
            # The last page names what was left unfinished.
            found = finished if trained else times
            if found != seen and trained and not finished:
                print(f"{now}  no run is finished yet", flush=True)
            elif found != seen:
                with process.deferring():  # a page is whole
                    made = report(paths, out)
                print(f"{now}  {page}: {len(finished)} finished", flush=True)
            if made and not trained:
                return made
            seen = found
            time.sleep(_INTERVAL)
    except KeyboardInterrupt as error:
        terminated = getattr(error, "exit_code", 0) == 128 + signal.SIGTERM
        if terminated or not made:
            raise
        return made  # how a watch usually ends


def _show(runs: list[Run]) -> None:
    """The scores, as a table on the terminal; a task or base that all share is in its title."""
    rows = short_rows(runs)
    several = [len({row[i] for row in rows}) > 1 for i in range(2)]
    common = [name for name, many in zip(rows[0], several, strict=False) if not many]
    of = f"{', '.join(common)}: " if common else ""
    table = Table(title=Text(f"{of}score, mean over the seeds"))
    names = [name for name, many in zip(("task", "base"), several, strict=True) if many]
    for column in (*names, "variant"):
        table.add_column(column, overflow="fold")
    for column in ("data", "before", "after", "last\nquarter", "over base\n[95 %]"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        kept = [name for name, many in zip(row, several, strict=False) if many]
        table.add_row(*map(Text, [*kept, *row[2:]]))
    Console().print(table)
