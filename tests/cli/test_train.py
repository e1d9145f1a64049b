"""`stratdiff train`: its options, a config file under them, and whose code is imported."""

import itertools
import json
import re

import pointmass
import pytest
import runs
from commands import run

from stratdiff.cli import train
from stratdiff.config import make_config

OLD = json.loads((runs.TESTS / "config-0.1.json").read_text())


@pytest.fixture
def asked(capsys, monkeypatch):
    """The config that a command line asks for, where the run is to stand, and what was said."""

    def ask(*args):
        found = []
        monkeypatch.setattr(train, "train", lambda *given: found.append(given))
        monkeypatch.setattr(train, "show_result", lambda result: 0)
        code, _, err = run(capsys, "train", *args)
        assert code == 0, err
        ((config, out),) = found
        return config, out, err

    return ask


def refused(capsys, *args):
    code, _, err = run(capsys, "train", *args)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    return err


def options_of(capsys, *args):
    code, out, _ = run(capsys, "train", *args, "--help")
    assert code == 0
    return re.findall(r"--([a-z0-9.-]+)", out), out


def test_help_lists_every_option_with_its_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    options, out = options_of(capsys)
    names = """dataset env env-kwargs max-episode-steps base score split rho guidance-scale
        inverse-temperature utd seeds offline-steps online-steps preset out config track
        trust-modules iql.expectile behaviour.widths energy.hidden save-policies no-save-policies"""
    for option in names.split():
        assert option in options
    assert out.count("(default: ") >= 50
    assert "(default: demo)" in out


@pytest.mark.parametrize(
    ("args", "there", "elsewhere"),
    [
        ([], ["iql.expectile", "rho", "energy.hidden"], ["calql.alpha", "sac.critics"]),
        (["--base", "calql"], ["calql.alpha", "calql.no-calibrate"], ["iql.expectile"]),
        (["--score", "none"], ["iql.expectile"], ["rho", "guidance-scale", "behaviour.widths"]),
        (["--score=random"], ["rho"], ["guidance-scale", "energy-steps"]),
        (["--score", "support"], ["guidance-scale", "behaviour-steps"], ["energy-steps"]),
        (["--base", "sac", "--score", "none"], ["sac.critics"], ["rho", "iql.expectile"]),
        (
            ["--base", "own_parts:OwnBase", "--score", "own_parts:OwnScore"],
            ["own.stubbornness", "own.expectile", "curiosity", "rho"],
            ["iql.expectile", "guidance-scale"],
        ),
    ],
)
def test_help_shows_the_options_of_the_chosen_parts_only(
    capsys, monkeypatch, args, there, elsewhere
):
    monkeypatch.setenv("COLUMNS", "200")
    options, _ = options_of(capsys, *args)
    assert set(there) <= set(options)
    assert not set(elsewhere) & set(options)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--calql.alpha", "3"], "--calql.alpha is an option of --base calql"),
        (["--calql.no-calibrate"], "--calql.no-calibrate is an option of --base calql"),
        (["--score", "none", "--rho", "0.3"], "--rho is an option of --split ratio"),
        (
            ["--score=random", "--guidance-scale=1"],
            "--guidance-scale is an option of --score guided or --score support",
        ),
        (["--score", "support", "--energy-steps", "3"], "--energy-steps is an option of --score g"),
    ],
)
def test_an_option_of_another_part_gets_one_sentence(capsys, args, said):
    err = refused(capsys, *args)
    assert said in err and "this run has --base iql --score" in err


def test_flags(asked):
    config, _, _ = asked("--save-policies", "--base", "calql", "--calql.no-calibrate")
    assert config.save_policies and not config.agent.calibrate
    config, _, _ = asked("--no-save-policies", "--seeds", "3", "5", "--iql.actor-hidden", "8", "8")
    assert not config.save_policies and config.agent.actor_hidden == (8, 8)
    assert config.seeds == (3, 5)
    config, _, _ = asked("--rho=0.3", "--utd=2", "--behaviour.support-actions=5")
    assert (config.splitting.rho, config.utd) == (0.3, 2)
    assert config.scoring.behaviour.support_actions == 5


def test_defaults_are_those_of_the_preset_and_the_recipe_of_the_data(asked):
    assert asked()[0] == make_config("demo")
    assert asked("--preset", "paper", "--base", "calql")[0] == make_config("paper", base="calql")
    maze = "stratdiff/antmaze-umaze"
    assert asked("--dataset", maze)[0] == make_config("demo", dataset=maze)
    assert asked("--dataset", maze)[0].recipe == "antmaze"
    assert asked("--recipe", "antmaze")[0] == make_config("demo", "antmaze")
    assert asked("--dataset", maze, "--recipe", "locomotion")[0] == make_config(
        "demo", "locomotion", dataset=maze
    )


def test_options_that_contradict_the_defaults_count_only_as_a_whole(asked, capsys, tmp_path):
    """WSRL's 5,000 frozen steps do not fit into the demo's online steps, but into those given."""
    longer = ("--protocol", "wsrl", "--online-steps", "20000")
    config = asked(*longer)[0]
    assert (config.frozen_steps, config.online_steps, config.base) == (5000, 20_000, "calql")
    assert asked("--protocol", "wsrl", "--frozen-steps", "500")[0].frozen_steps == 500
    path = tmp_path / "config.json"
    path.write_text(make_config("demo").to_json())
    assert asked("--config", path, *longer)[0].frozen_steps == 5000
    options_of(capsys, "--protocol", "wsrl")  # help needs no options that fit
    said = "error: --frozen-steps is 5000; it must be below --online-steps, 5000.\n"
    assert refused(capsys, "--protocol", "wsrl") == said


def test_where_a_run_stands(asked):
    for args, name in (
        ([], r"runs/halfcheetah-medium-replay-iql-guided-\d{8}-\d{6}"),
        (["--base", "sac", "--score", "none"], r"runs/halfcheetah-medium-replay-sac-none-\d+-\d+"),
        (["--base", "own_parts:OwnBase"], r"runs/halfcheetah-medium-replay-OwnBase-guided-.*"),
        (["--out", "there"], "there"),
    ):
        assert re.fullmatch(name, asked(*args)[1])


# A config file


def write(path, **options):
    path.write_text(make_config("demo", **options).to_json())
    return path


def test_a_file_s_options_under_those_of_the_command_line(asked, tmp_path):
    path = write(tmp_path / "config.json", rho=0.3, utd=2, iql={"expectile": 0.8})
    config, _, err = asked("--config", path, "--utd", "4")
    assert err == ""
    assert config == make_config("demo", rho=0.3, utd=4, iql={"expectile": 0.8})
    # Other parts: the file's options that they have too stay, the others are left out.
    config, _, _ = asked("--config", path, "--base", "calql", "--score", "support")
    assert config == make_config(
        "demo", base="calql", score="support", rho=0.3, utd=2, energy_steps=0
    )


def test_another_data_set_brings_its_environment(asked, tmp_path):
    path = write(tmp_path / "config.json", dataset="stratdiff/hopper-medium", env="Hopper-v4")
    assert asked("--config", path)[0].env == "Hopper-v4"
    other = asked("--config", path, "--dataset", "stratdiff/walker2d-medium")[0]
    assert (other.dataset, other.env) == ("stratdiff/walker2d-medium", "")
    args = ("--dataset", "stratdiff/walker2d-medium", "--env", "Walker2d-v5")
    assert asked("--config", path, *args)[0].env == "Walker2d-v5"
    assert asked("--config", path, "--env", "Hopper-v5")[0].env == "Hopper-v5"


def test_an_environment_in_full(asked, capsys, tmp_path):
    """Arguments and limit stay with a run's config, and go with its environment."""
    options = ("--env", "Hopper-v5", "--env-kwargs", '{"frame_skip": 4}')
    config = asked(*options, "--max-episode-steps", "9")[0]
    assert (config.env_kwargs, config.max_episode_steps) == ('{"frame_skip": 4}', 9)
    kept = {"env_kwargs": {"frame_skip": 4}, "max_episode_steps": 9, "env_spec": '{"id": "E-v0"}'}
    path = write(tmp_path / "config.json", env="Hopper-v5", **kept)
    again = asked("--config", path)[0]
    assert again.env_spec and again.environment == config.environment
    for change in (("--dataset", "stratdiff/walker2d-medium"), ("--env", "Walker2d-v5")):
        other = asked("--config", path, *change)[0]
        assert (other.env_kwargs, other.env_spec, other.max_episode_steps) == ("", "", 0)
    assert asked("--config", path, "--max-episode-steps", "5")[0].max_episode_steps == 5
    for text in ("goal", "[1]", "[" * 100_000):
        err = refused(capsys, "--env-kwargs", text)
        assert "it must be a JSON object, such as" in err


@pytest.mark.parametrize(
    ("method", "alignment"),
    [*itertools.product(("base", "random", "stratdiff"), ("guided", "support"))],
)
def test_a_file_of_version_0_1_is_read_with_one_line_of_notice(asked, tmp_path, method, alignment):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(OLD | {"method": method, "alignment": alignment}))
    config, _, err = asked("--config", path)
    score = {"base": "none", "random": "random", "stratdiff": alignment}[method]
    assert config.score == score
    assert err.count("\n") == 1 and err.startswith(f"{path}: ")
    assert repr(method) in err and f"score {score!r}" in err
    config, _, err = asked("--config", path, "--score", "random")  # over what the file says
    assert config.score == "random" and config.splitting.rho == 0.4


# Trust


def test_code_that_a_file_names_needs_trust(asked, capsys, tmp_path, untrusting):
    path = tmp_path / "config.json"
    table = json.loads(make_config("demo").to_json())
    path.write_text(json.dumps(table | {"base": "own_parts:OwnBase"}))
    err = refused(capsys, "--config", path)
    for word in ("'own_parts:OwnBase' is code", "--trust-modules", "--base own_parts:OwnBase"):
        assert word in err
    # Another base makes the file's harmless; named on the command line it is the user's.
    assert asked("--config", path, "--base", "calql")[0].base == "calql"
    path.write_text(json.dumps(table | {"base": "own_parts:OwnBase", "own": {"stubbornness": 7}}))
    config, _, _ = asked("--config", path, "--base", "own_parts:OwnBase")
    assert config.agent.stubbornness == 7.0


def test_trust_in_all_that_a_file_names(asked, tmp_path, untrusting):
    path = tmp_path / "config.json"
    table = json.loads(make_config("demo").to_json())
    path.write_text(json.dumps(table | {"base": "own_parts:OwnBase"}))
    assert asked("--config", path, "--trust-modules")[0].agent_name == "own"


def test_an_environment_that_only_a_file_names_is_not_imported(
    capsys, tmp_path, untrusting, data_file, monkeypatch
):
    """Neither that of a data file nor a sink of a config."""
    monkeypatch.chdir(tmp_path)
    err = refused(capsys, "--dataset", data_file)
    assert f"{pointmass.ENV!r} is code that a file names as --env" in err
    options = {"dataset": str(data_file), "track": ["runs:Recording"]}
    (tmp_path / "config.json").write_text(json.dumps(options))
    err = refused(capsys, "--config", "config.json", "--env", pointmass.ENV)
    assert "'runs:Recording' is code that a file names as --track" in err
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("command", ["resume", "eval"])
def test_a_run_directory_s_code_needs_trust(
    command, capsys, tmp_path, untrusting, monkeypatch, small_run
):
    copy = runs.copy(small_run, tmp_path / "run")
    text = (copy / "config.json").read_text()
    named = json.dumps(json.loads(text) | {"base": "own_parts:OwnBase"})
    for content, name in ((text, pointmass.ENV), (named, "own_parts:OwnBase")):
        (copy / "config.json").write_text(content)
        code, _, err = run(capsys, command, copy)
        assert code == 2 and f"{name!r} is code that a file names" in err
    (copy / "config.json").write_text(text)
    more = ["--episodes", "2"] if command == "eval" else []
    code, out, err = run(capsys, command, copy, "--trust-modules", *more)
    assert code == 0, err
    after = small_run.scores["after"][0]
    assert f"{after:.1f}" in out
