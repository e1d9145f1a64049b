"""`stratdiff pull`."""

import dataclasses
import shutil
from pathlib import Path

import tyro

from stratdiff import hub
from stratdiff.cli.parsing import parse
from stratdiff.errors import UserError
from stratdiff.files import replacing, writing
from stratdiff.policy import Policy


@dataclasses.dataclass(frozen=True)
class _Pull:
    """Fetch a run from the Hugging Face hub: the files that `stratdiff push` puts there."""

    repo: tyro.conf.Positional[str] = tyro.MISSING
    """The repository, owner/name, with @revision behind it for an earlier state."""
    out: str = ""
    """The directory to make; empty: runs/NAME."""


def main(args: list[str]) -> int:
    """Pull a run."""
    parsed = parse(_Pull, args, "pull")
    name = parsed.repo.removeprefix(hub.PREFIX).partition("@")[0].rpartition("/")[2]
    out = Path(parsed.out or Path("runs") / name)
    if out.exists():
        raise UserError(f"{str(out)!r} already exists; give another --out, or remove it first.")
    files = hub.download(parsed.repo)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        partial.mkdir()
        for file, path in files.items():
            shutil.copyfile(path, partial / file)
        Policy.load(partial / hub.POLICY)  # refuses what is no policy, before it gets its name
    print(f"{out}: {', '.join(files)}")
    return 0
