"""`stratdiff resume`."""

import dataclasses

import tyro

from stratdiff.cli.parsing import Trust, parse, show_result
from stratdiff.training.loop import resume


@dataclasses.dataclass(frozen=True)
class _Resume(Trust):
    """Resume an interrupted run; the result is bit-identical to that of an uninterrupted one."""

    directory: tyro.conf.Positional[str] = tyro.MISSING
    """The run directory."""


def main(args: list[str]) -> int:
    """Resume a run."""
    return show_result(resume(parse(_Resume, args, "resume").directory))
