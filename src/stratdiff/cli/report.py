"""`stratdiff report`."""

import dataclasses
import itertools
import signal
import sys
import time
from pathlib import Path

import tyro
from rich import box
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
            elif found != seen or not (trained or made):
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
    """The scores, as tables on the terminal: one for each task and base."""
    rows = short_rows(runs)
    names = max(len(row[3]) for row in rows)
    print("Means over the seeds. Over base: `after`, less that of plain fine-tuning [95 %].")
    for (task, base, data), group in itertools.groupby(rows, key=lambda row: row[:3]):
        about = f"{task}, {base}" + ("" if data == "—" else f"; mean of the data {data}")
        table = Table(title=Text(about), title_justify="left", box=box.SIMPLE_HEAD)
        # The columns of all tables are as wide, as far as there is room.
        table.add_column("variant", overflow="fold", min_width=min(names, 12))
        widths = {"before": 6, "after": 6, "last\nquarter": 7, "regret": 6, "over base": 20}
        for column, width in widths.items():
            table.add_column(column, justify="right", no_wrap=True, min_width=width)
        for row in group:
            table.add_row(*map(Text, row[3:]))
        Console(markup=False).print(table)
