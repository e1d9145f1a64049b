"""`stratdiff` alone: what is here, and the next sensible commands."""

import shlex
from pathlib import Path

from stratdiff import __version__
from stratdiff.files import LOCK, is_held, run_folders

_HELP = """\
`stratdiff --help` lists every command, `stratdiff COMMAND --help` its options."""
_FIRST = """\
There are no runs in runs/ yet. To begin:

  stratdiff train              the demo, on data that are made here: minutes on two CPU cores
  stratdiff data list          every data set known by name, and which of them are here
"""


def advice(root: Path) -> str:
    """What to do next, given the runs below `root`."""
    runs = sorted(run_folders(root), key=lambda run: (run / "config.json").stat().st_mtime)
    finished = [run for run in runs if (run / "summary.json").exists()]
    trained = [run for run in runs if run not in finished and is_held(run / LOCK)]
    stopped = [run for run in runs if run not in finished and run not in trained]
    lines = []
    for found, command, what in (
        (stopped, "stratdiff resume", "goes on with the run that was cut off"),
        (trained, "stratdiff show", "how far the run is that is being trained"),
        (finished, "stratdiff show", "the newest finished run on one screen"),
    ):
        if found:
            lines.append((f"{command} {shlex.quote(str(found[-1]))}", what))
    if finished:
        lines.append((f"stratdiff report {root}", "a page with figures of the finished runs"))
    head = f"stratdiff {__version__}: offline-to-online reinforcement learning on logged data\n\n"
    if not lines:
        return f"{head}{_FIRST}\n{_HELP}"
    counts = {"finished": finished, "cut off": stopped, "being trained": trained}
    said = ", ".join(f"{len(found)} {how}" for how, found in counts.items() if found)
    body = "".join(f"  {command}\n      {what}\n" for command, what in lines)
    return f"{head}The runs in {root}/: {said}. What to do next:\n\n{body}\n{_HELP}"
