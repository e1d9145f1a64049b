"""Films of a training run: `--track video`."""

from pathlib import Path
from typing import Any

from stratdiff.envs.identity import exact
from stratdiff.policy import Policy, policy_file
from stratdiff.sinks.base import LogPoint
from stratdiff.sinks.trackers import FILM, Tracker
from stratdiff.tasks import episode_seed
from stratdiff.video import check_environment, film


class Film(Tracker):
    """The `Sink` that films the first seed's policy, in the first episode of its evaluations.

    DIR/video holds a film for every policy that the run keeps under DIR/policies, and at the end
    one of the policies before and after fine-tuning side by side. Other trackers show that one.
    """

    title = "video"

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        super().__init__(directory, config)
        named = ("env", "env_spec", "env_kwargs", "max_episode_steps")
        self._environment = exact(*(config[key] for key in named))
        self._episodes = [episode_seed(self.seeds[0], 1, 0)]

    def begin(self) -> None:
        """Draw the environment once: one that cannot be filmed stops the run before it trains."""
        check_environment(self._environment)

    def write(self, point: LogPoint, values: list[tuple[int | None, str, float]]) -> None:
        """Film the policy of this evaluation, if it is kept and has no film yet."""
        policy, out = policy_file(self.directory, point.step), self._path(point.step)
        evaluated = any(name == "online/score" for _, name, _ in values)
        if evaluated and policy.exists() and not out.exists():
            self._film(out, {"": policy})

    def show(self, pictures: dict[str, Path]) -> None:
        """Film the policies before and after."""
        after = self.directory / "policy.safetensors"
        policies = {"before": policy_file(self.directory, 0), "after": after}
        self._film(self.directory / FILM, policies)

    def end(self) -> None:
        """Nothing is open."""

    def _path(self, step: int) -> Path:
        return (self.directory / FILM).with_name(f"step_{step:09d}.gif")

    def _film(self, out: Path, files: dict[str, Path]) -> None:
        out.parent.mkdir(exist_ok=True)
        policies = {caption: Policy.load(path) for caption, path in files.items()}
        film(out, self._environment, policies, self._episodes)
