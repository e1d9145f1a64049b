"""`stratdiff compare`."""

import dataclasses
import sys
from pathlib import Path

import tyro

from stratdiff.cli.parsing import Trust, parse
from stratdiff.experiments import compare, read_spec


@dataclasses.dataclass(frozen=True)
class _Compare(Trust):
    """Do the runs of an experiment that are missing; what is done is skipped."""

    spec: tyro.conf.Positional[str] = tyro.MISSING
    """The experiment's TOML file (docs/experiments.md)."""
    out: str = ""
    """Directory of its runs; empty: runs/NAME, after the file's name."""
    jobs: int = 1
    """Runs at a time, which share out this machine's cores; the results do not depend on it."""
    ray: bool = False
    """Run cells side by side on a Ray cluster, or on this machine's cores where there is none."""


def main(args: list[str]) -> int:
    """Do an experiment's runs; 1 where one failed."""
    parsed = parse(_Compare, args, "compare")
    out = Path(parsed.out or f"runs/{Path(parsed.spec).stem}")
    cells = read_spec(parsed.spec)
    failed = compare(cells, out, parsed.ray, jobs=parsed.jobs)
    for name, reason in failed.items():
        print(f"error: {name}: {reason}", file=sys.stderr)
    if len(failed) < len(cells):
        print(f"the runs: {out}/; a page of them: stratdiff report {out}")
    return 1 if failed else 0
