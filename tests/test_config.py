"""Options: the paper's values, JSON there and back, refusals that name the option."""

import dataclasses
import itertools
import json

import own_parts
import pointmass
import pytest
import runs

from stratdiff import registry
from stratdiff.agents.calql import CalQLConfig
from stratdiff.agents.iql import IQLConfig
from stratdiff.agents.sac import SACConfig
from stratdiff.config import (
    RunOptions,
    config_of,
    difference,
    flat_options,
    make_config,
    of_other_part,
    read_config,
)
from stratdiff.errors import UserError
from stratdiff.options import NoOptions
from stratdiff.presets import translated
from stratdiff.scores.guidance import GuidanceOptions
from stratdiff.scores.guided import GuidedOptions
from stratdiff.splits import RatioOptions

# docs/method.md, section 7: the table and the text above it.
PAPER = {
    "locomotion": {
        "calql.actor_learning_rate": 1e-4,
        "calql.critic_learning_rate": 3e-4,
        "calql.critic_hidden": (256, 256),
        "calql.actor_hidden": (256, 256),
        "iql.learning_rate": 3e-4,
        "iql.actor_hidden": (256, 256),
        "iql.critic_hidden": (256, 256),
        "iql.expectile": 0.7,
        "iql.inverse_temperature": 3.0,
        "behaviour.support_actions": 16,
        "guidance_scale": 3.0,
        "eval_episodes": 10,
        # docs/method.md, section 6: α = 10 fixed, one target action.
        "calql.alpha": 10.0,
        "calql.lagrange": False,
        "calql.max_target_backup": False,
        "recipe": "locomotion",
    },
    "antmaze": {
        "calql.actor_learning_rate": 1e-4,
        "calql.critic_learning_rate": 3e-4,
        "calql.critic_hidden": (256, 256, 256, 256),
        "calql.actor_hidden": (256, 256),
        "iql.learning_rate": 3e-4,
        "iql.actor_hidden": (256, 256),
        "iql.critic_hidden": (256, 256),
        "iql.expectile": 0.9,
        "iql.inverse_temperature": 10.0,
        "behaviour.support_actions": 32,
        "guidance_scale": 2.0,
        "eval_episodes": 100,
        # docs/method.md, section 6: Lagrange with threshold 0.8 times 5, the max over 10 samples.
        "calql.alpha": 5.0,
        "calql.lagrange": True,
        "calql.max_target_backup": True,
        "recipe": "antmaze",
    },
}
EVERYWHERE = {
    "rho": 0.5,
    "utd": 1,
    "batch_size": 256,
    "offline_fraction": 0.5,
    "online_warmup": 1000,
    "offline_steps": 1_000_000,
    "online_steps": 200_000,
    "eval_interval": 5000,
    "score": "guided",
    "split": "ratio",
    "calql.lagrange_threshold": 0.8,
    "calql.sampled_actions": 10,
    "calql.calibrate": True,
    "calql.discount": 0.99,
    "calql.polyak": 0.005,
    "iql.discount": 0.99,
    "iql.polyak": 0.005,
    "iql.online_expectile": 0.99,
    "iql.max_target_actions": 10,
    "behaviour.widths": (512, 256, 128),
    "behaviour_steps": 600_000,
    "behaviour.learning_rate": 1e-4,
    "behaviour.batch_size": 4096,
    "behaviour.ema": 0.999,
    "behaviour.solver": "multistep",
    "behaviour.solver_steps": 15,
    "guidance": "scaled",
    "energy.hidden": (256, 256, 256, 256),
    "inverse_temperature": 3.0,
}
BASES = ("iql", "calql", "sac", "rebrac")


def chosen(option):
    """The choice that has an option: `--base calql` for `calql.alpha`."""
    if option == "origin_flips":
        return {"score": "origin"}
    base = option.split(".")[0]
    return {"base": base, "score": "none" if base == "sac" else "guided"} if base in BASES else {}


def nested(option, value):
    """{"a": {"b": value}} of "a.b"."""
    for part in reversed(option.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("recipe", PAPER)
def test_paper_preset_is_that_of_the_method_page(recipe):
    options = {}
    for base in ("iql", "calql"):
        options |= flat_options(make_config("paper", recipe, base=base)) | {"base": "iql"}
    for option, value in (EVERYWHERE | PAPER[recipe]).items():
        assert options[option] == value, option


def test_defaults_are_the_paper_on_locomotion():
    config = make_config()
    assert config == make_config("paper", "locomotion")
    assert config.run == RunOptions()
    # The paper's losses of online-like rows; those of this package are the default elsewhere.
    agent = IQLConfig(online_expectile=0.99, online_target="max-q")
    assert (config.agent, config.scoring) == (agent, GuidedOptions())
    assert config.splitting == RatioOptions()


@pytest.mark.parametrize("recipe", PAPER)
def test_demo_preset_shortens_and_keeps_the_method(recipe):
    for base in BASES:
        choice = chosen(f"{base}.discount")
        demo, paper = (make_config(preset, recipe, **choice) for preset in ("demo", "paper"))
        loss = {"online_expectile": 0.99, "online_target": "max-q"} if base == "iql" else {}
        assert dataclasses.replace(demo.agent, **loss) == paper.agent
    demo, paper = (flat_options(make_config(preset, recipe)) for preset in ("demo", "paper"))
    for name in ("offline_steps", "behaviour_steps", "energy_steps", "online_steps"):
        assert 0 < demo[name] <= paper[name] / 30
    assert demo["behaviour.widths"] == (128, 64, 32)
    kept = ("rho", "guidance_scale", "inverse_temperature", "recipe", "batch_size", "score")
    for name in (*kept, "split", "utd"):
        assert demo[name] == paper[name]


def test_options_go_over_recipe_and_preset():
    config = make_config(
        "demo", "antmaze", rho=0.3, online_steps=77, iql={"expectile": 0.8}, seeds=(4, 2)
    )
    assert (config.splitting.rho, config.online_steps, config.seeds) == (0.3, 77, (4, 2))
    assert config.agent.expectile == 0.8
    # The rest of the part is still the recipe's.
    assert config.agent.inverse_temperature == 10.0


@pytest.mark.parametrize(
    ("choice", "agent", "scoring", "splitting"),
    [
        ({}, IQLConfig, GuidedOptions, RatioOptions),
        ({"base": "calql", "score": "support"}, CalQLConfig, GuidanceOptions, RatioOptions),
        ({"base": "sac", "score": "none"}, SACConfig, NoOptions, NoOptions),
        ({"score": "random"}, IQLConfig, NoOptions, RatioOptions),
        (
            {"base": "own_parts:OwnBase", "score": "own_parts:OwnScore"},
            own_parts.OwnConfig, own_parts.OwnOptions, RatioOptions,
        ),
    ],
)  # fmt: skip
def test_a_config_has_the_options_of_the_chosen_parts(choice, agent, scoring, splitting):
    config = make_config(**choice)
    found = (type(config.agent), type(config.scoring), type(config.splitting))
    assert found == (agent, scoring, splitting)
    assert config.splitting == splitting()
    # The preset is the paper's, which has another loss of online-like rows than IQL's default.
    loss = {"online_expectile": 0.99, "online_target": "max-q"} if agent is IQLConfig else {}
    assert config.agent == agent(**loss)


@pytest.mark.parametrize(
    ("options", "phases"),
    [
        ({}, ["base", "behaviour", "support", "energy"]),
        ({"guidance_scale": 0.0}, ["base", "behaviour"]),
        ({"score": "support"}, ["base", "behaviour", "support"]),
        ({"score": "support", "guidance_scale": 0.0}, ["base", "behaviour", "support"]),
        ({"score": "random"}, ["base"]),
        ({"score": "none"}, ["base"]),
    ],
)
def test_which_phases_a_score_needs(options, phases):
    algorithm = make_config(**options).algorithm(3, 2, 1.0)
    assert [phase.name for phase in algorithm.phases()] == phases


def test_the_algorithm_has_the_config_s_sizes_and_units():
    config = make_config(recipe="antmaze", base="calql", batch_size=32, offline_steps=7)
    algorithm = config.algorithm(29, 8, 1.0)
    for part in (algorithm.agent, algorithm.score):
        assert (part.obs_dim, part.action_dim) == (29, 8)
    assert (algorithm.batch_size, algorithm.q_divisor) == (32, 10.0)
    assert algorithm.agent.offline_steps == 7


# JSON


@pytest.mark.parametrize(
    "config",
    [
        make_config(),
        make_config("demo", "antmaze", base="calql", seeds=(3, 1, 2), rho=0.7),
        make_config(base="sac", score="none", sac={"critics": 10, "layer_norm": True}),
        make_config(env="Hopper-v4", iql={"actor_hidden": (8,)}, save_policies=True),
        make_config(score="support", guidance_scale=1.0, behaviour={"support_actions": 3}),
        make_config(base="own_parts:OwnBase", own={"stubbornness": 5.0}, track=["runs:Recording"]),
        make_config(score="own_parts:OwnScore", split="own_parts:OwnSplit", curiosity=2.0, rho=0),
    ],
)
def test_round_trip(config, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    assert read_config(path) == config
    assert hash(read_config(path)) == hash(config)
    assert difference(read_config(path), config) == ""
    # One table, whose parts are the chosen ones.
    table = json.loads(config.to_json())
    assert config.agent_name in table and table.keys() - {"behaviour", "energy"} >= {"base", "utd"}
    assert not (table.keys() & {*BASES}) - {config.agent_name}
    assert repr(config.dataset) in repr(config) and repr(config.base) in repr(config)


def test_where_two_configs_differ():
    config = make_config(rho=0.5)
    assert difference(config, make_config(rho=0.3)) == "rho 0.5, not 0.3"
    other = make_config(iql={"expectile": 0.8})
    assert difference(config, other) == "iql.expectile 0.7, not 0.8"
    assert difference(config, make_config(score="none")).startswith("score 'guided', not 'none'")


def test_lists_and_whole_numbers_become_tuples_and_floats():
    config = make_config(seeds=[1, 2], rho=1, behaviour={"widths": [8, 4]})
    assert config.seeds == (1, 2)
    assert config.scoring.behaviour.widths == (8, 4)
    assert isinstance(config.splitting.rho, float)


def test_options_of_parts_that_are_not_chosen_are_left_out(tmp_path):
    """One file of options serves several variants."""
    everything = {
        "rho": 0.3, "guidance_scale": 1.0, "behaviour_steps": 5, "energy": {"hidden": [8, 8]},
        "iql": {"expectile": 0.8}, "calql": {"alpha": 3.0}, "sac": {"critics": 5},
    }  # fmt: skip
    plain = make_config(base="sac", score="none", **everything)
    assert plain.agent.critics == 5
    assert flat_options(plain).keys().isdisjoint({"rho", "guidance_scale", "iql.expectile"})
    split = make_config(base="calql", score="support", **everything)
    assert (split.agent.alpha, split.scoring.guidance_scale) == (3.0, 1.0)
    assert split.splitting.rho == 0.3
    path = tmp_path / "config.json"
    path.write_text(json.dumps(everything | {"score": "random"}))
    assert flat_options(read_config(path)).keys().isdisjoint({"guidance_scale", "calql.alpha"})


# Files of version 0.1

# IQL's only loss of online-like rows, schedule and initial weights of version 0.1.
ONLINE = {
    "online_expectile": 0.99, "online_target": "max-q", "actor_schedule": "cosine",
    "final_gain": 0.01,
}  # fmt: skip
OLD = json.loads((runs.TESTS / "config-0.1.json").read_text())
OLD_SCORES = {
    ("base", "guided"): "none",
    ("base", "support"): "none",
    ("random", "guided"): "random",
    ("random", "support"): "random",
    ("stratdiff", "guided"): "guided",
    ("stratdiff", "support"): "support",
}


@pytest.mark.parametrize(
    ("method", "alignment", "base"),
    [
        (method, alignment, base)
        for (method, alignment), base in itertools.product(OLD_SCORES, BASES)
        if base != "sac" or method == "base"  # what version 0.1 allowed
    ],
)
def test_a_config_of_version_0_1_is_read(method, alignment, base, tmp_path):
    path, score = tmp_path / "config.json", OLD_SCORES[method, alignment]
    path.write_text(json.dumps(OLD | {"method": method, "alignment": alignment, "base": base}))
    config = read_config(path)
    expected = {
        "score": score, "base": base, "dataset": "stratdiff/hopper-medium", "seeds": [3],
        "offline_steps": 30_000, "guidance_scale": 2.0, "rho": 0.4, "inverse_temperature": 2.0,
        "behaviour_steps": 4000, "energy_steps": 1000, "iql": {"expectile": 0.8} | ONLINE,
        "behaviour": {
            "widths": [128, 64, 32], "support_actions": 8, "solver_steps": 8,
            "solver": "multistep", "learning_rate": 3e-4, "batch_size": 256,
            "precision": "bfloat16",
        },
        "energy": {"hidden": [64, 64, 64]}, "online_steps": 5000, "eval_episodes": 20,
        "offline_eval_interval": 5000, "eval_interval": 1000, "log_interval": 250,
    }  # fmt: skip
    assert config == make_config(**expected)
    if score in ("guided", "support"):
        assert config.scoring.inverse_temperature == 2.0
    # Written anew, it is in today's words.
    words = json.loads(config.to_json())
    assert words.keys().isdisjoint({"method", "alignment"})
    assert "inverse_temperature" not in words.get("energy", {})
    note = translated(json.loads(path.read_text()))[1]
    words = ("inverse_temperature", "behaviour.time_grid 'lambda' as behaviour.solver 'multistep'")
    words += ("iql with actor_schedule 'cosine', final_gain 0.01, online_target 'max-q'",)
    for word in (repr(method), repr(alignment), f"score {score!r}", *words):
        assert word in note
    assert "\n" not in note


def test_todays_options_need_no_translation():
    options = {"score": "support", "energy": {"hidden": [8]}}
    assert translated(options) == (options, "")
    assert make_config(energy={"inverse_temperature": 2.0}).scoring.inverse_temperature == 2.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "dare"}, "method is 'dare'; write score = none, random, guided or support"),
        ({"method": ["base"]}, "method is"),
        ({"alignment": "kde"}, "--score is 'kde'; it must be one of none, random, origin"),
        ({"method": "base", "score": "support"}, "score 'support' is given, and method"),
        ({"method": "base", "energy": 5, "score": "none"}, "score 'none' is given"),
        ({"behaviour": {"time_grid": "uniform"}}, "behaviour.time_grid is 'uniform', which this"),
    ],
)
def test_what_cannot_be_translated_is_one_sentence(options, said):
    with pytest.raises(UserError) as caught:
        make_config(**options)
    assert said in str(caught.value)


# Trust


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("base", "own_parts:OwnBase"),
        ("score", "own_parts:OwnScore"),
        ("split", "own_parts:OwnSplit"),
    ],
)
def test_code_that_only_a_file_names_is_not_imported(untrusting, tmp_path, option, name):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({option: name}))
    for read in (lambda: read_config(path), lambda: config_of({option: name})):
        with pytest.raises(UserError) as caught:
            read()
        for word in (repr(name), f"--{option} {name}", "--trust-modules"):
            assert word in str(caught.value)
    assert getattr(make_config(**{option: name}), option) == name  # a program names it
    assert getattr(read_config(path), option) == name  # and so trusts it


def test_trust_in_everything_and_in_sinks(untrusting):
    with pytest.raises(UserError, match="--trust-modules"):
        config_of({"base": "own_parts:OwnBase"})
    make_config(track=["runs:Recording"], env="pointmass:PointMass-v0")
    assert registry.trusted() == ["pointmass:PointMass-v0", "runs:Recording"]
    registry.trust("iql", "*")
    assert registry.trusted() == ["*", "pointmass:PointMass-v0", "runs:Recording"]
    assert config_of({"base": "own_parts:OwnBase"}).agent_name == "own"


def test_which_part_has_an_option():
    assert of_other_part("--calql.no-calibrate") == "--base calql"
    assert of_other_part("--rho") == "--split ratio"
    assert of_other_part("--energy.hidden") == "--score guided"
    assert of_other_part("--guidance-scale") == "--score guided or --score support"
    assert of_other_part("--rhoo") == of_other_part("--utd") == ""


# Refusals

OUT_OF_RANGE = [
    ("rho", -0.1),
    ("rho", 1.01),
    ("rho", float("nan")),
    ("guidance_scale", -1.0),
    ("reward_scale", -2.0),
    ("seeds", ()),
    ("seeds", (1, 1)),
    ("seeds", (-1,)),
    ("seeds", (2**31,)),
    ("offline_fraction", 1.5),
    ("offline_steps", -1),
    ("behaviour_steps", -1),
    ("energy_steps", -1),
    ("online_steps", -5),
    ("utd", 0),
    ("log_interval", 0),
    ("eval_interval", 0),
    ("offline_eval_interval", 0),
    ("batch_size", 1),
    ("online_warmup", 0),
    ("eval_episodes", -1),
    ("checkpoint_seconds", -1.0),
    ("origin_flips", 1.5),
    ("behaviour.support_actions", 1),
    ("behaviour.solver_steps", 0),
    ("behaviour.widths", (8,)),
    ("behaviour.ema", 1.0),
    ("behaviour.batch_size", 0),
    ("energy.batch_size", 0),
    ("inverse_temperature", 0.0),
    ("iql.discount", 1.0),
    ("calql.polyak", 0.0),
    ("sac.discount", 0.0),
    ("iql.expectile", 1.0),
    ("iql.online_expectile", 0.0),
    ("iql.max_target_actions", 0),
    ("calql.sampled_actions", 0),
    ("sac.target_critics", 3),
]
OUT_OF_RANGE += [
    ("guidance_scale", float("inf")),
    ("iql.learning_rate", -1.0),
    ("iql.inverse_temperature", -3.0),
    ("calql.critic_learning_rate", 0.0),
    ("calql.alpha", -1.0),
    ("iql.critic_hidden", (0,)),
    ("calql.actor_hidden", (-3,)),
    ("behaviour.widths", (8, -8)),
    ("energy.hidden", (0,)),
]


@pytest.mark.parametrize(
    ("option", "value"),
    OUT_OF_RANGE,
)
def test_out_of_range_is_refused_by_the_flags_name(option, value):
    with pytest.raises(UserError) as caught:
        make_config(**chosen(option), **nested(option, value))
    assert "--" + option.replace("_", "-") in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [("rho", 0.0), ("rho", 1.0), ("guidance_scale", 0.0), ("utd", 10), ("eval_episodes", 0)],
)
def test_ends_of_the_range_are_accepted(option, value):
    assert flat_options(make_config(**{option: value}))[option] == value


def test_sac_has_nothing_to_stratify():
    with pytest.raises(UserError) as caught:
        make_config(base="sac")
    for word in ("--score", "--base sac", "--score none"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("utd", "two"),
        ("utd", 1.5),
        ("dataset", 5),
        ("base", "ddpg"),
        ("method", None),
        ("score", None),
        ("split", 1),
        ("track", "runs:Recording"),
        ("iql", 5),
        ("save_policies", "yes"),
        ("save_policies", 1),
        ("calql.sampled_actions", "ten"),
        ("seeds", (0.5,)),
        ("rho", "high"),
        ("rho", None),
        ("iql.expectile", "x"),
        ("seeds", 3),
        ("iql.actor_hidden", 256),
    ],
)
def test_wrong_type_is_refused(option, value, tmp_path):
    path, table = tmp_path / "config.json", chosen(option) | nested(option, value)
    path.write_text(json.dumps(table))
    for read in (lambda: make_config(**table), lambda: read_config(path)):
        with pytest.raises(UserError) as caught:
            read()
        assert option.replace("_", "-") in str(caught.value)


@pytest.mark.parametrize("option", ["rhoo", "iql.tau", "behaviour.width"])
def test_unknown_option_is_refused(option, tmp_path):
    with pytest.raises(UserError) as caught:
        make_config(**nested(option, 1.0))
    # Its name, and what there is instead.
    assert option.split(".")[-1] in str(caught.value)
    known = {"rhoo": "rho", "iql.tau": "expectile", "behaviour.width": "widths"}[option]
    assert known in str(caught.value)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(nested(option, 1.0)))
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert option.split(".")[-1] in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["preset", "recipe"])
def test_unknown_preset_or_recipe(name):
    with pytest.raises(UserError) as caught:
        make_config(**{name: "kitchen"})
    for word in (f"--{name}", "'kitchen'", {"preset": "demo", "recipe": "antmaze"}[name]):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("{", "JSON"),
        ("", "JSON"),
        ("[1, 2]", "one JSON object"),
        ('{"utd": "x"}', "utd"),
    ],
)
def test_bad_file(text, words, tmp_path):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_file_with_a_value_out_of_range(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"rho": 2}')
    with pytest.raises(UserError, match="rho is 2"):
        read_config(path)


# Protocols


def test_rlpd_is_one_option():
    c = make_config("demo", env=pointmass.ENV, protocol="rlpd")
    assert (c.base, c.score, c.offline_steps, c.offline_fraction) == ("sac", "none", 0, 0.5)
    assert (c.agent.critics, c.agent.layer_norm, c.agent.target_critics) == (10, True, 2)
    assert c.agent.entropy_scale == 0.5


def test_wsrl_is_one_option_and_others_override_it():
    c = make_config("paper", env=pointmass.ENV, protocol="wsrl", utd=2)
    assert (c.base, c.score, c.splitting.rho, c.offline_fraction) == ("calql", "origin", 0.0, 0.0)
    assert (c.agent.critics, c.agent.layer_norm, c.frozen_steps, c.utd) == (10, True, 5000, 2)
    with pytest.raises(UserError, match=r"--frozen-steps is 5000; it must be below --online-steps"):
        make_config("demo", env=pointmass.ENV, protocol="wsrl")
    with pytest.raises(UserError, match=r"--protocol is 'sarsa'; it must be one of stratdiff, rl"):
        make_config("demo", env=pointmass.ENV, protocol="sarsa")


@pytest.mark.parametrize("share", [0.3, 1, "0.9:0.1", "uniform"])
def test_an_offline_fraction_survives_its_file(share, tmp_path):
    config = make_config("demo", env=pointmass.ENV, offline_fraction=share)
    (tmp_path / "c.json").write_text(config.to_json())
    assert read_config(tmp_path / "c.json") == config


@pytest.mark.parametrize("share", [1.5, "0.5:2", "half", "0.1:0.2:0.3", ""])
def test_an_offline_fraction_is_a_number_two_or_uniform(share):
    with pytest.raises(UserError, match=r"--offline-fraction is .*; it must be a number from 0"):
        make_config("demo", env=pointmass.ENV, offline_fraction=share)


def test_infinite_odds_survive_their_file(tmp_path):
    config = make_config("demo", env=pointmass.ENV, split="exchange", exchange_odds=float("inf"))
    (tmp_path / "c.json").write_text(config.to_json())
    assert "Infinity" not in config.to_json()
    assert read_config(tmp_path / "c.json") == config
    # No score is used, so none is trained.
    assert config.algorithm(3, 2, 1.0).score.name == "origin"


def test_states_are_normalised_but_on_antmaze():
    assert make_config("demo", env="HalfCheetah-v4").normalize_states
    assert not make_config("demo", env="stratdiff/AntMaze-umaze-v2").normalize_states
