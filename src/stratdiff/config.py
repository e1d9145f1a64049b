"""Every option of a run and its default. Saved as one table: config.json.

The options of the chosen score and split rule stand beside the run's own (`rho`, `behaviour`),
those of the chosen base under its name (`iql`). Options of parts that are not chosen are left out,
so one file of options can serve several variants.
"""

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Annotated, Any

from stratdiff import registry
from stratdiff.agents.base import AGENTS, Agent
from stratdiff.algorithm import StratDiff
from stratdiff.data.sources import absolute, environment_of
from stratdiff.envs.identity import OUTSIDE, exact
from stratdiff.errors import UserError, nearest
from stratdiff.nn import Precision
from stratdiff.options import (
    Count,
    Decay,
    Episodes,
    Interval,
    NonNegative,
    NoOptions,
    Object,
    Rule,
    Several,
    Steps,
    check,
    flat,
    from_table,
    value_of,
)
from stratdiff.presets import PRESETS, PROTOCOLS, RECIPES, override, translated
from stratdiff.reading import SMALL, read_table
from stratdiff.scores.base import SCORES
from stratdiff.splits import SPLITS, split_class
from stratdiff.tasks import Recipe, recipe_of

DEFAULT_DATASET = "stratdiff/halfcheetah-medium-replay"

Seeds = Annotated[
    tuple[int, ...],
    Rule(lambda x: 0 < len(x) <= 1000, "at least one seed and at most 1,000"),
    Rule(lambda x: len(set(x)) == len(x), "different numbers"),
    Rule(lambda x: all(0 <= s < 2**31 for s in x), "numbers from 0 to 2^31 - 1"),
]


UNIFORM = "uniform"


def fractions(share: float | str) -> tuple[float, float] | None:
    """The offline fraction at the first and at the last online step; None: `uniform`.

    Raises:
        ValueError: it is neither a number, nor a:b, nor uniform.
    """
    if share == UNIFORM:
        return None
    first, _, last = str(share).partition(":")
    return float(first), float(last or first)


def _is_share(share: float | str) -> bool:
    try:
        return all(0 <= end <= 1 for end in fractions(share) or ())
    except ValueError:
        return False


Share = Annotated[
    float | str, Rule(_is_share, "a number from 0 to 1, two as in 0.9:0.1, or uniform")
]


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """A run: data, method and lengths."""

    dataset: str = DEFAULT_DATASET
    """Offline data: a name of `stratdiff data list`, or the path of a D4RL-format HDF5 file."""
    env: str = ""
    """Gymnasium id of the environment, or module:function that makes it; empty: the data set's."""
    env_kwargs: Object = ""
    """Arguments of the environment, a JSON object; empty: those it was recorded with."""
    max_episode_steps: Steps = 0
    """Steps after which an episode is cut off; 0: the environment's own time limit."""
    env_spec: Object = ""
    """Gymnasium's EnvSpec of the environment as JSON; empty: the data set's."""
    base: str = "iql"
    """Base algorithm: iql, calql, rebrac, sac, or module:Class."""
    score: str = "guided"
    """Alignment score: none (plain fine-tuning), random, origin, guided, support, likelihood, or
    module:Class."""
    split: str = "ratio"
    """Split rule: ratio, exchange, or module:Class."""
    recipe: Recipe = "locomotion"
    """Reward units and, through the presets, hyperparameters; default: the environment's."""
    reward_scale: NonNegative = 0.0
    """Locomotion reward factor; 0: 1000 / (max - min episode return of the data)."""

    seeds: Seeds = (0,)
    """Independent runs trained together."""
    from_run: str = ""
    """Start from the pre-training of the run in this directory (also --from); empty: pre-train."""
    offline_steps: Steps = 1_000_000
    """Offline updates of the base algorithm."""
    online_steps: Steps = 200_000
    """Environment steps online."""
    utd: Count = 1
    """Updates per environment step (UTD)."""
    batch_size: Several = 256
    """Transitions per update."""
    offline_fraction: Share = 0.5
    """Share of an online batch from the offline data: a number, a:b from the first to the last
    online step, or uniform (all transitions equally likely)."""
    online_warmup: Interval = 1000
    """Online transitions before batches hold any of them."""
    frozen_steps: Steps = 0
    """Environment steps at the start of the online phase in which nothing is learned."""
    precision: Precision = "float32"
    """Matrix products of updates: float32, or bfloat16, for devices with instructions for it;
    weights, sums, losses and scores are float32 in both."""
    normalize_states: bool = True
    """Normalise states by mean and standard deviation of the offline data."""

    log_interval: Interval = 1000
    """Steps between two log points; checkpoints are taken at log points."""
    offline_eval_interval: Interval = 50_000
    """Offline updates between two evaluations."""
    eval_interval: Interval = 5000
    """Environment steps between two online evaluations."""
    eval_episodes: Episodes = 10
    """Episodes per evaluation, deterministic policy; 0: no evaluation."""
    checkpoint_seconds: NonNegative = 60.0
    """Least time between two checkpoints; 0: one at every log point."""
    validation_fraction: Decay = 0.0
    """Share of the trajectories that is held out of the training; evaluations then tell mean Q, TD
    error and advantage of the policy on them."""
    save_policies: bool = False
    """Keep the policy of every online evaluation under DIR/policies; the first is always kept."""
    track: tuple[str, ...] = ()
    """Further sinks of the metrics: tensorboard, wandb, trackio, video, or module:Class;
    metrics.jsonl is always written."""

    def check(self) -> None:
        """Updates are counted in 32 bits.

        Raises:
            UserError: there are more of them.
        """
        if self.online_steps * self.utd >= 2**31:
            raise UserError(
                f"--online-steps {self.online_steps} times --utd {self.utd} is "
                f"{self.online_steps * self.utd:,} updates; it must be below 2^31."
            )


@dataclasses.dataclass(frozen=True)
class Config(RunOptions):
    """A run's options and those of the chosen base, score and split rule."""

    agent: Any = dataclasses.field(default_factory=NoOptions)
    """Options of the base algorithm."""
    scoring: Any = dataclasses.field(default_factory=NoOptions)
    """Options of the score."""
    splitting: Any = dataclasses.field(default_factory=NoOptions)
    """Options of the split rule."""

    def validate(self) -> None:
        """Check every option.

        Raises:
            UserError: an option is out of its range, or options contradict each other.
        """
        agent = AGENTS.find(self.base)
        check(self.run)
        check(self.scoring)
        check(self.splitting)
        check(self.agent, f"{agent.name}.")
        if self.frozen_steps >= self.online_steps > 0:
            raise UserError(
                f"--frozen-steps is {self.frozen_steps}; it must be below --online-steps, "
                f"{self.online_steps}."
            )
        if not agent.stratifies and self.score != "none":
            raise UserError(
                f"--score is {self.score!r} but --base {self.base} has no conservative loss to "
                "stratify; use --score none, or --base iql or calql."
            )

    @property
    def agent_name(self) -> str:
        """What the base's table of options is called."""
        return AGENTS.find(self.base).name

    @property
    def environment(self) -> str:
        """The text from which `tasks.make_env` makes exactly the run's environment; "": unknown."""
        named = self.env not in ("", OUTSIDE)
        options = self.env_spec, self.env_kwargs, self.max_episode_steps
        return exact(self.env, *options) if named else ""

    def located(self) -> "Config":
        """The same config with absolute paths: the process may change its folder."""
        start = str(Path(self.from_run).absolute()) if self.from_run else ""
        return dataclasses.replace(self, dataset=absolute(self.dataset), from_run=start)

    @property
    def run(self) -> RunOptions:
        """The run's own options alone."""
        return RunOptions(**{name: getattr(self, name) for name in _names(RunOptions)})

    def to_table(self) -> dict[str, Any]:
        """All options as one nested table."""
        own = dataclasses.asdict(self.run)
        parts = dataclasses.asdict(self.scoring) | dataclasses.asdict(self.splitting)
        return own | parts | {self.agent_name: dataclasses.asdict(self.agent)}

    def to_json(self) -> str:
        """All options as JSON text."""
        return json.dumps(_without_inf(self.to_table()), indent=2, allow_nan=False) + "\n"

    def __repr__(self) -> str:
        return (
            f"Config({self.dataset!r}, base={self.base!r}, score={self.score!r}, "
            f"seeds={self.seeds}, {self.offline_steps:,} offline and {self.online_steps:,} online "
            "steps)"
        )

    def algorithm(self, obs_dim: int, action_dim: int, reward_scale: float) -> StratDiff:
        """The algorithm for states and actions of these sizes.

        `reward_scale` is the data's factor of the locomotion recipe.
        """
        agent: Agent = AGENTS.find(self.base)(  # type: ignore[call-arg]
            self.agent, obs_dim, action_dim, self.offline_steps
        )
        kind = split_class(self.split, self.score)
        # Without use for a score none is trained; the origin is for free.
        name = self.score if kind.uses_scores(self.splitting) else "origin"
        scores = SCORES.find(name)
        options = self.scoring if name == self.score else scores.options()
        score = scores(options, obs_dim, action_dim)  # type: ignore[call-arg]
        return StratDiff(
            agent,
            score,
            kind(self.splitting, score),
            self.batch_size,
            agent.reward_units(self.recipe, reward_scale).q_divisor,
            self.precision,
        )


def _without_inf(table: dict[str, Any]) -> dict[str, Any]:
    """The table with infinity as the word that `options.value_of` reads: JSON lacks the number."""
    return {
        k: _without_inf(v) if isinstance(v, dict) else "inf" if v == math.inf else v
        for k, v in table.items()
    }


def _names(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _only(table: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key in names}


def make_config(preset: str = "paper", recipe: str = "", **options: Any) -> Config:
    """A config: the preset's lengths and sizes, the recipe's hyperparameters, then `options`.

    Without `recipe` it is that of the environment. Options of a part are a dict:
    `make_config(iql={"expectile": 0.8}, rho=0.3)`; `protocol="rlpd"` or `"wsrl"` are baselines, as
    sets of options. A `module:Class` that is named here is imported.

    Raises:
        UserError: an option is unknown or out of range.
    """
    names_code = ("base", "score", "split", "dataset", "env")
    registry.trust(*(str(options.get(key, "")) for key in names_code))
    registry.trust(*map(str, options.get("track", ())))
    return config_of(options, preset, recipe)


def config_of(
    options: dict[str, Any], preset: str = "paper", recipe: str = "", *, whole: bool = True
) -> Config:
    """As `make_config` for a file, whose `module:Class` needs trust; `whole`: none is to come."""
    options = translated(options)[0]
    protocol = options.pop("protocol", "stratdiff")
    if not recipe:
        env_id, name = options.get("env"), options.get("dataset", DEFAULT_DATASET)
        if not env_id and isinstance(name, str):
            env_id = environment_of(name)
        recipe = recipe_of(str(env_id))
    for name, value, known in (
        ("preset", preset, [*PRESETS]),
        ("recipe", recipe, [*RECIPES]),
        ("protocol", protocol, [*PROTOCOLS]),
    ):
        if value not in known:
            raise UserError(f"--{name} is {value!r}; it must be one of {', '.join(known)}.")
    table: dict[str, Any] = {}
    of_protocol = PROTOCOLS[protocol]
    base = str(options.get("base", of_protocol.get("base", RunOptions.base)))
    of_agent = AGENTS.find(base).recipes.get(recipe, {})
    own = {AGENTS.find(base).name: of_agent}
    for changes in (RECIPES[recipe], own, PRESETS[preset], of_protocol, options):
        override(table, changes)
    return table_to_config(table, "the options given", whole=whole)


def read_config(path: str | Path) -> Config:
    """Read a config written by `Config.to_json`, or by an earlier version.

    Raises:
        UserError: the file is missing or is not such a config.
    """
    return table_to_config(read_table(path, "config file", SMALL), f"config file {str(path)!r}")


@functools.cache
def _options_of_parts() -> dict[str, str]:
    """Options (and names of tables) of the package's parts, and which parts have them."""
    found: dict[str, list[str]] = {}
    for parts in (SCORES, SPLITS):
        for name in parts.names():
            for option in sorted(_names(parts.find(name).options)):
                found.setdefault(option, []).append(f"{parts.option} {name}")
    for name in AGENTS.names():
        found.setdefault(AGENTS.find(name).name, []).append(f"--base {name}")
    return {option: " or ".join(parts) for option, parts in found.items()}


def table_to_config(table: dict[str, Any], where: str, *, whole: bool = True) -> Config:
    """The config of a nested table; `where` begins an error's sentence, `whole` is `config_of`'s.

    Raises:
        UserError: an option is unknown or out of its range.
    """
    try:
        table, own = translated(table)[0], _names(RunOptions)
        if isinstance(kwargs := table.get("env_kwargs"), dict):  # of a program, or TOML
            table = table | {"env_kwargs": json.dumps(kwargs)}
        run = from_table(RunOptions, _only(table, own))
        agent, score = AGENTS.find(run.base), SCORES.find(run.score)
        split = split_class(run.split, run.score)
        groups = [own, {agent.name}, _names(score.options), _names(split.options)]
        known = set().union(*groups)
        if len(known) < sum(map(len, groups)):
            raise UserError(
                f"--base {run.base}, --score {run.score}, --split {run.split} and the run itself "
                "have options of the same name; rename them in the class from outside."
            )
        behaviour = table.get("behaviour")
        if "behaviour" in known and isinstance(behaviour, dict) and "time_grid" in behaviour:
            raise UserError(
                f"behaviour.time_grid is {behaviour['time_grid']!r}, which this version does not "
                "have; leave it out, and write behaviour.solver = multistep or singlestep."
            )
        for key in _only(table, table.keys() - known - _options_of_parts().keys()):
            near = nearest(key, known | _options_of_parts().keys())
            raise UserError(f"unknown option {key!r}; nearest: {near}.")
        config = Config(
            **dataclasses.asdict(run),
            agent=value_of(agent.options, table.get(agent.name, {}), agent.name),
            scoring=from_table(score.options, _only(table, groups[2])),
            splitting=from_table(split.options, _only(table, groups[3])),
        )
        if whole:
            config.validate()
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return config


def flat_options(config: Config) -> dict[str, Any]:
    """All options by their dotted names."""
    return flat(config.to_table())


def difference(found: Config, wanted: Config) -> str:
    """Where a run that is there differs from the one wanted, in words; '' where it does not."""
    a, b = flat_options(found), flat_options(wanted)
    key = next((k for k in [*b, *a] if a.get(k) != b.get(k)), None)
    return f"{key} {a.get(key)!r}, not {b.get(key)!r}" if key else ""


def of_other_part(option: str) -> str:
    """Which parts have an option that the chosen ones lack; '' if none has."""
    return _options_of_parts().get(option.lstrip("-").replace("-", "_").split(".")[0], "")
