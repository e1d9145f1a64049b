"""Every option of a run, its default and its check. One frozen dataclass, saved as JSON."""

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import dacite

from stratdiff.agents import CalQLConfig, IQLConfig, SACConfig
from stratdiff.data.sources import environment_of
from stratdiff.diffusion.energy import EnergyConfig
from stratdiff.diffusion.score import BehaviourConfig
from stratdiff.errors import UserError, nearest
from stratdiff.tasks import Recipe, recipe_of

Base = Literal["iql", "calql", "sac"]
Method = Literal["stratdiff", "base", "random"]
Alignment = Literal["guided", "support"]
Preset = Literal["demo", "paper"]

DEFAULT_DATASET = "stratdiff/halfcheetah-medium-replay"


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: data, method, lengths, and the parts' own options."""

    dataset: str = DEFAULT_DATASET
    """Offline data: a name of `stratdiff data list`, or the path of a D4RL-format HDF5 file."""
    env: str = ""
    """Gymnasium id of the environment; empty: the one the data set names."""
    base: Base = "iql"
    """Base algorithm."""
    method: Method = "stratdiff"
    """stratdiff: split by alignment; random: split at random; base: no split (plain)."""
    alignment: Alignment = "guided"
    """Alignment score: distance to one guided sample, or density under the support actions."""
    rho: float = 0.5
    """Fraction ρ of a batch that is offline-like and keeps the conservative loss."""
    guidance_scale: float = 3.0
    """Guidance scale w; 0: plain behaviour sampling."""
    recipe: Recipe = "locomotion"
    """Reward units and, through the presets, hyperparameters; default: the environment's."""
    reward_scale: float = 0.0
    """Locomotion reward factor; 0: 1000 / (max - min episode return of the data)."""

    seeds: tuple[int, ...] = (0,)
    """Independent runs trained together."""
    offline_steps: int = 1_000_000
    """Offline updates of the base algorithm."""
    behaviour_steps: int = 500_000
    """Updates of the behaviour diffusion model."""
    energy_steps: int = 100_000
    """Offline updates of the energy model."""
    online_steps: int = 200_000
    """Environment steps online."""
    utd: int = 1
    """Updates per environment step (UTD)."""
    batch_size: int = 256
    """Transitions per update."""
    offline_fraction: float = 0.5
    """Share of an online batch that is drawn from the offline data."""
    online_warmup: int = 1000
    """Online transitions before batches hold any of them."""

    log_interval: int = 1000
    """Steps between two log points; checkpoints are taken at log points."""
    offline_eval_interval: int = 50_000
    """Offline updates between two evaluations."""
    eval_interval: int = 5000
    """Environment steps between two online evaluations."""
    eval_episodes: int = 10
    """Episodes per evaluation, deterministic policy."""
    checkpoint_seconds: float = 60.0
    """Least time between two checkpoints; 0: one at every log point."""
    save_policies: bool = False
    """Keep the policy of every online evaluation under DIR/policies."""

    iql: IQLConfig = dataclasses.field(default_factory=IQLConfig)
    calql: CalQLConfig = dataclasses.field(default_factory=CalQLConfig)
    sac: SACConfig = dataclasses.field(default_factory=SACConfig)
    behaviour: BehaviourConfig = dataclasses.field(default_factory=BehaviourConfig)
    energy: EnergyConfig = dataclasses.field(default_factory=EnergyConfig)

    def validate(self) -> None:
        """Check every option.

        Raises:
            UserError: an option is out of its range, or options contradict each other.
        """

        def need(ok: bool, option: str, expected: str) -> None:
            if not ok:
                flag = "--" + option.replace("_", "-")
                value: Any = self
                for part in option.split("."):
                    value = getattr(value, part)
                raise UserError(f"{flag} is {value!r}; it must be {expected}.")

        need(0 <= self.rho <= 1, "rho", "between 0 and 1")
        need(0 <= self.guidance_scale < math.inf, "guidance_scale", "a number from 0 on")
        need(0 <= self.reward_scale < math.inf, "reward_scale", "0 (automatic) or positive")
        need(len(self.seeds) > 0, "seeds", "at least one seed")
        need(len(set(self.seeds)) == len(self.seeds), "seeds", "different numbers")
        need(all(0 <= s < 2**31 for s in self.seeds), "seeds", "numbers from 0 to 2^31 - 1")
        need(0 <= self.offline_fraction <= 1, "offline_fraction", "between 0 and 1")
        for name in ("offline_steps", "behaviour_steps", "energy_steps", "online_steps"):
            need(getattr(self, name) >= 0, name, "0 or more")
        for name in ("utd", "log_interval", "eval_interval", "offline_eval_interval"):
            need(getattr(self, name) >= 1, name, "1 or more")
        need(self.batch_size >= 2, "batch_size", "2 or more")
        need(self.online_warmup >= 1, "online_warmup", "1 or more")
        need(self.eval_episodes >= 1, "eval_episodes", "1 or more")
        need(self.checkpoint_seconds >= 0, "checkpoint_seconds", "0 or more")
        need(self.behaviour.support_actions >= 2, "behaviour.support_actions", "2 or more")
        need(self.behaviour.solver_steps >= 1, "behaviour.solver_steps", "1 or more")
        need(len(self.behaviour.widths) >= 2, "behaviour.widths", "two or more widths")
        for part in ("iql", "calql", "sac", "behaviour", "energy"):
            for field in dataclasses.fields(getattr(self, part)):
                name, value = f"{part}.{field.name}", getattr(getattr(self, part), field.name)
                if name.endswith("learning_rate"):
                    need(0 < value < math.inf, name, "positive")
                elif name.endswith(("hidden", "widths")):
                    need(all(width >= 1 for width in value), name, "widths of 1 or more")
        need(
            0 <= self.iql.inverse_temperature < math.inf,
            "iql.inverse_temperature",
            "a number from 0 on",
        )
        need(0 <= self.calql.alpha < math.inf, "calql.alpha", "a number from 0 on")
        need(0 <= self.behaviour.ema < 1, "behaviour.ema", "at least 0 and below 1")
        need(self.behaviour.batch_size >= 1, "behaviour.batch_size", "1 or more")
        need(self.energy.batch_size >= 1, "energy.batch_size", "1 or more")
        need(self.energy.inverse_temperature > 0, "energy.inverse_temperature", "positive")
        for base in get_args(Base):
            own = getattr(self, base)
            need(0 < own.discount < 1, f"{base}.discount", "between 0 and 1, exclusive")
            need(0 < own.polyak <= 1, f"{base}.polyak", "above 0 and at most 1")
        need(0 < self.iql.expectile < 1, "iql.expectile", "between 0 and 1, exclusive")
        need(
            0 < self.iql.online_expectile < 1, "iql.online_expectile", "between 0 and 1, exclusive"
        )
        need(self.iql.max_target_actions >= 1, "iql.max_target_actions", "1 or more")
        need(self.calql.sampled_actions >= 1, "calql.sampled_actions", "1 or more")
        need(
            1 <= self.sac.target_critics <= self.sac.critics,
            "sac.target_critics",
            "between 1 and --sac.critics",
        )
        if self.base == "sac" and self.method != "base":
            raise UserError(
                f"--method is {self.method!r} but --base sac has no conservative loss to stratify; "
                "use --method base, or --base iql or calql."
            )

    @property
    def agent(self) -> IQLConfig | CalQLConfig | SACConfig:
        """The chosen base algorithm's own options."""
        return getattr(self, self.base)

    @property
    def needs_behaviour(self) -> bool:
        """Whether the method samples from the behaviour model."""
        return self.method == "stratdiff"

    @property
    def needs_energy(self) -> bool:
        """Whether the method uses the energy model."""
        return self.needs_behaviour and self.alignment == "guided" and self.guidance_scale > 0

    @property
    def needs_support(self) -> bool:
        """Whether the method keeps support actions."""
        return self.needs_behaviour and (self.needs_energy or self.alignment == "support")

    def to_json(self) -> str:
        """All options as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


_ANTMAZE: dict[str, Any] = {
    "guidance_scale": 2.0,
    "eval_episodes": 100,
    "recipe": "antmaze",
    "iql": {"expectile": 0.9, "inverse_temperature": 10.0},
    "calql": {
        "critic_hidden": (256, 256, 256, 256),
        "alpha": 5.0,
        "lagrange": True,
        "max_target_backup": True,
    },
    "behaviour": {"support_actions": 32},
}
_DEMO: dict[str, Any] = {
    "offline_steps": 30_000,
    "behaviour_steps": 4000,
    "energy_steps": 1000,
    "online_steps": 5000,
    "eval_episodes": 20,
    "offline_eval_interval": 5000,
    "eval_interval": 1000,
    "log_interval": 250,
    "behaviour": {
        "widths": (128, 64, 32),
        "support_actions": 8,
        "solver_steps": 8,
        "time_grid": "lambda",
    },
    "energy": {"hidden": (64, 64, 64)},
}
_RECIPES: dict[str, dict[str, Any]] = {"locomotion": {}, "antmaze": _ANTMAZE}
_PRESETS: dict[str, dict[str, Any]] = {"demo": _DEMO, "paper": {}}


def override(options: dict[str, Any], changes: dict[str, Any]) -> None:
    """Put the (nested) changes into `options`; its tables are never those of `changes`."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(options.get(key), dict):
            override(options[key], value)
        else:
            options[key] = copy.deepcopy(value)


def flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by their dotted names: `iql.expectile`."""
    out: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


def make_config(preset: str = "paper", recipe: str = "", **options: Any) -> Config:
    """A config: the preset's lengths and sizes, the recipe's hyperparameters, then `options`.

    Without `recipe` it is that of the environment. Options of a part are a dict:
    `make_config(iql={"expectile": 0.8}, rho=0.3)`.

    Raises:
        UserError: an option is unknown or out of range.
    """
    if not recipe:
        env_id, name = options.get("env"), options.get("dataset", DEFAULT_DATASET)
        if not env_id and isinstance(name, str):
            env_id = environment_of(name)
        recipe = recipe_of(str(env_id))
    for name, value, known in (("preset", preset, [*_PRESETS]), ("recipe", recipe, [*_RECIPES])):
        if value not in known:
            raise UserError(f"--{name} is {value!r}; it must be one of {', '.join(known)}.")
    data = dataclasses.asdict(Config())
    for changes in (_RECIPES[recipe], _PRESETS[preset], options):
        override(data, changes)
    return _from_dict(data, "the options given")


def read_config(path: str | Path) -> Config:
    """Read a config written by `Config.to_json`.

    Raises:
        UserError: the file is missing or is not such a config.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"config file {str(path)!r} does not exist.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"config file {str(path)!r} could not be read as JSON: {error}.") from error
    if not isinstance(data, dict):
        raise UserError(f"config file {str(path)!r} must hold one JSON object.")
    return _from_dict(data, f"config file {str(path)!r}")


def _from_dict(data: dict[str, Any], where: str) -> Config:
    try:
        config = dacite.from_dict(Config, _coerce(Config, data), dacite.Config(strict=True))
        config.validate()
    except (dacite.DaciteError, UserError) as error:
        raise UserError(f"{where}: {str(error).removesuffix('.')}.") from error
    return config


def _coerce(kind: Any, value: Any, name: str = "") -> Any:
    """JSON's lists as tuples and whole numbers as floats, where `kind` asks for them.

    Raises:
        UserError: an option is unknown or is none of its choices.
    """
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        kinds, prefix = get_type_hints(kind), f"{name}." if name else ""
        for key in value:
            if key not in kinds:
                raise UserError(f"unknown option {prefix + key!r}; nearest: {nearest(key, kinds)}")
        return {key: _coerce(kinds[key], item, prefix + key) for key, item in value.items()}
    if get_origin(kind) is Literal and value not in get_args(kind):
        choices = ", ".join(get_args(kind))
        raise UserError(f"--{name} is {value!r}; it must be one of {choices}")
    if dataclasses.is_dataclass(kind) and not isinstance(value, dict):
        raise UserError(f"{name or 'config'} is {value!r}; it must be a table of options")
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or any(type(x) is not int for x in value):
            raise UserError(f"--{name} is {value!r}; it must be a list of whole numbers")
        return tuple(value)
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float) and (isinstance(value, bool) or not isinstance(value, kind)):
        what = "whole number" if kind is int else "number"
        raise UserError(f"--{name} is {value!r}; it must be a {what}")
    return value
