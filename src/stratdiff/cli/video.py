"""`stratdiff video`."""

import dataclasses
from pathlib import Path

import tyro

from stratdiff import process
from stratdiff.cli.parsing import Trust, parse
from stratdiff.errors import UserError
from stratdiff.policy import Policy, policy_file
from stratdiff.sinks.progress import Reporter
from stratdiff.tasks import episode_seed
from stratdiff.training.loop import run_config
from stratdiff.video import check_name, film


@dataclasses.dataclass(frozen=True)
class _Video(Trust):
    """Film a run's policy in its environment."""

    directory: tyro.conf.Positional[str] = tyro.MISSING
    """The run directory."""
    episodes: int = 1
    """Episodes, one after the other: the first ones of the run's evaluations."""
    seed: int | None = None
    """Which seed's policy, in the episodes of that seed; None: the first."""
    before_after: bool = False
    """Show the policy before fine-tuning beside the newest one."""
    out: str = ""
    """What to write, .mp4 or .gif; empty: DIR/video.mp4."""


def main(args: list[str]) -> int:
    """Film a policy."""
    parsed = parse(_Video, args, "video")
    if parsed.episodes < 1:
        raise UserError(f"--episodes is {parsed.episodes}; it must be 1 or more.")
    directory = Path(parsed.directory)
    config = run_config(directory)
    seed = config.seeds[0] if parsed.seed is None else parsed.seed
    if seed not in config.seeds:
        known = ", ".join(map(str, config.seeds))
        raise UserError(f"--seed is {seed}; the run {parsed.directory!r} has {known}.")
    files = {"": directory / "policy.safetensors"}
    if parsed.before_after:
        files = {"before": policy_file(directory, 0), "after": files[""]}
        if not files["before"].exists():
            raise UserError(
                f"{str(files['before'])!r} does not exist: the run {parsed.directory!r} has not "
                "ended its pre-training, or an earlier version made it; leave out --before-after."
            )
    out = Path(parsed.out) if parsed.out else directory / "video.mp4"
    check_name(out)
    index = config.seeds.index(seed)
    policies = {name: Policy.load(path)[index : index + 1] for name, path in files.items()}
    reporter = Reporter()

    def show(done: int, total: int) -> None:
        reporter.begin("video", total)
        reporter.update(done)

    episodes = [episode_seed(seed, 1, e) for e in range(parsed.episodes)]
    try:
        with process.deferring():  # not while the renderer is set up
            film(out, config.environment, policies, episodes, show)
    finally:
        reporter.end()
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0
