"""docs/experiments.md and docs/command-line.md: what they say is what the commands do."""

import os
import re
import shlex
from pathlib import Path

import pytest
import runs

from stratdiff.cli import main
from stratdiff.experiments import read_spec

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "experiments.md").read_text()


def test_the_lists_of_the_page_make_the_variants_that_it_names(tmp_path):
    (block,) = (b for b in re.findall(r"```toml\n(.*?)```", PAGE, re.S) if "rho = [" in b)
    task = "preset = 'demo'\n[tasks.t]\ndataset = 'stratdiff/hopper-medium'\n"
    (tmp_path / "spec.toml").write_text(task + block)
    names = [cell.variant for cell in read_spec(tmp_path / "spec.toml")]
    assert len(names) == 6 and "support-rho=0.3-utd=1" in names and ": six variants" in block
    alone = block.replace("utd = [1, 2]", "utd = 1")
    (tmp_path / "spec.toml").write_text(task + alone)
    named = re.search(r"rho = \[.*?# (.*)", block)[1].split(", ")
    assert [cell.variant for cell in read_spec(tmp_path / "spec.toml")] == named


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path, data_file, monkeypatch, programs, tiny_options):
    """All but those on Ray; the second `compare` finds everything done."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(runs.TESTS), runs.SRC)))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(programs))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    options = {k: v for k, v in tiny_options.items() if k != "preset"}
    text = "preset = 'demo'\n[options]\n" + "".join(
        f"{key}.{name} = {value}\n" if isinstance(table, dict) else f"{key} = {value!r}\n"
        for key, table in options.items()
        for name, value in (table.items() if isinstance(table, dict) else [("", table)])
    ).replace("(", "[").replace(",)", "]")
    text += f"[tasks.point]\ndataset = {str(data_file)!r}\n"
    text += (
        "[variants.base]\nscore = 'none'\n[variants.random]\nscore = 'random'\nrho = [0.3, 0.6]\n"
    )
    Path("experiments").mkdir()
    Path("experiments/core-small.toml").write_text(text)
    commands = re.findall(r"^stratdiff ((?:compare|report) [^#\n]*?) *(?:#.*)?$", PAGE, re.M)
    local = [command for command in commands if "--ray" not in command]
    assert len(local) == 4 and any("--jobs 2" in c for c in local)
    for command in sorted(local, key=lambda c: ("report" in c, "--jobs" not in c)):
        trust = ["--trust-modules"] if command.startswith("compare") else []
        assert main([*shlex.split(command), *trust]) == 0, command
    found = {path.parent.name for path in Path("runs/core-small").rglob("summary.json")}
    assert found == {"base", "random-rho=0.3", "random-rho=0.6"}
    assert Path("report/index.html").is_file()


def test_the_page_on_the_command_line_names_each_shell(capsys):
    text = (DOCS / "command-line.md").read_text()
    commands = re.findall(r"^stratdiff (completion \w+) > \S+", text, re.M)
    assert [command.split()[1] for command in commands] == ["bash", "zsh", "fish"]
    for command in commands:
        assert main(command.split()) == 0
        assert "stratdiff" in capsys.readouterr().out
