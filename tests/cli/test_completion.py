"""The completion script: valid for each shell, and in bash it really completes."""

import re
import shutil
import subprocess
import sys

import pytest
from commands import run

from stratdiff import cli
from stratdiff.data import sources


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "stratdiff.bash"
    with pytest.MonkeyPatch.context() as patch, path.open("w") as file:
        patch.setattr(sys, "stdout", file)
        assert cli.main(["completion", "bash"]) == 0
    return path


@pytest.fixture
def complete(script, tmp_path):
    """The candidates for the last of some words, in an empty folder."""

    def ask(*words):
        program = f"""
source {script}
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
_shtab_stratdiff stratdiff "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
        command = ["bash", "-c", program, "bash", "stratdiff", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_the_scripts_are_valid(script, capsys, tmp_path):
    for shell, check in (("bash", "-n"), ("zsh", "-n"), ("fish", "-n")):
        code, text, err = run(capsys, "completion", shell)
        assert code == 0 and err == "" and "save-policies" in text
        (tmp_path / shell).write_text(text)
        if shutil.which(shell):
            subprocess.run([shell, check, tmp_path / shell], check=True)
    assert (tmp_path / "bash").read_text() == script.read_text()


def test_bash_completes_commands_options_and_values(complete):
    assert complete("re") == ["resume", "report"]
    assert complete("train", "--save") == ["--save-policies"]
    assert complete("train", "--no-save") == ["--no-save-policies"]
    assert complete("train", "--preset", "") == ["demo", "paper"]
    assert {"iql", "calql"} <= {*complete("train", "--base", "")}
    # Options of parts that are not the default.
    assert complete("train", "--calql.sampled") == ["--calql.sampled-actions"]
    assert complete("train", "--exchange") != []
    known = [entry.name for entry in sources.entries()]
    found = complete("train", "--dataset", "stratdiff/hopper-medium")
    assert found == [name for name in known if name.startswith("stratdiff/hopper-medium")]
    assert complete("data", "") == ["list", "make", "info", "check", "convert"]
    assert complete("data", "info", "--js") == ["--json"]
    assert complete("completion", "") == ["bash", "zsh", "fish"]


def test_bash_completes_run_directories(complete, tmp_path):
    for name in ("runs/first", "runs/second", "other"):
        (tmp_path / name).mkdir(parents=True)
    assert complete("resume", "ru") == ["runs"]
    for command in ("resume", "show", "eval", "report", "export"):
        assert sorted(complete(command, "runs/")) == ["runs/first", "runs/second"]
    assert complete("report", "runs/first", "runs/s") == ["runs/second"]


@pytest.mark.parametrize("command", [*cli._COMMANDS])
def test_every_option_of_the_help_is_completed(command, complete, capsys):
    if command == "data":
        return
    _, text, _ = run(capsys, command, "--help")
    # One a line, after the frame; those in the texts are about others.
    options = {*re.findall(r"^[│\s]*(?:-h, )?(--[a-z][a-z0-9.-]*)", text, re.MULTILINE)}
    assert "--help" in options
    assert options <= {*complete(command, "--")}


def test_a_missing_library_is_one_sentence(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    code, _, err = run(capsys, "completion", "bash")
    assert code == 2
    assert err == (
        "error: completion needs shtab; install it with pip install 'stratdiff[completion]'.\n"
    )
