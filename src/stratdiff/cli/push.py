"""`stratdiff push`."""

import dataclasses
from pathlib import Path

import tyro

from stratdiff import hub
from stratdiff.cli.parsing import Trust, parse
from stratdiff.config import read_config
from stratdiff.errors import UserError
from stratdiff.policy import Policy
from stratdiff.reading import read_table
from stratdiff.report.card import card


@dataclasses.dataclass(frozen=True)
class _Push(Trust):
    """Put a finished run on the Hugging Face hub: policy, options, metrics, curves, films, card."""

    directory: tyro.conf.Positional[str] = tyro.MISSING
    """The run directory."""
    repo: tyro.conf.Positional[str] = tyro.MISSING
    """The repository, owner/name; it is made if there is none."""
    private: bool = False
    """Make it a private one."""


def main(args: list[str]) -> int:
    """Push a run."""
    parsed = parse(_Push, args, "push")
    directory, repo = Path(parsed.directory), parsed.repo.removeprefix(hub.PREFIX)
    missing = [name for name in hub.RUN[:4] if not (directory / name).is_file()]
    if missing:
        raise UserError(
            f"{parsed.directory!r} has no {missing[0]}, so it is no finished run; finish it with "
            "`stratdiff resume` first."
        )
    config = read_config(directory / "config.json")
    summary = read_table(directory / "summary.json", "summary")
    Policy.load(directory / hub.POLICY)  # refuses one that is damaged
    there = sorted(path.name for path in directory.iterdir() if path.is_file())
    names = [name for name in there if name in hub.RUN or hub.is_film(name)]
    files: dict[str, Path | bytes] = {name: directory / name for name in names}
    hub.check(repo)
    try:
        files[hub.CARD] = card(repo, config, summary, names).encode()
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"the summary.json of {parsed.directory!r} is not of a run's form ({error!r}); put it "
            "back from a copy."
        ) from error
    address = hub.upload(repo, files, parsed.private, "A run of stratdiff")
    print(f"pushed {', '.join(files)}")
    print(address)
    return 0
