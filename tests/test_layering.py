"""The house's order, read from its imports: who may import whom, and what loads what."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stratdiff

SRC = Path(stratdiff.__file__).parent
# Imports run downwards or within a row.
ROWS = (
    {"cli"},
    {"report", "experiments", "cells"},
    {"training"},
    {"config"},
    {"algorithm", "sinks"},
    {"agents", "scores", "splits"},
    {"phases"},
    {"diffusion", "data", "envs", "tasks", "deploy", "video"},
    {"policy", "hub", "nn", "cpu", "compiled", "options", "presets"},
    {"registry", "files", "process", "reading", "errors"},
)
ROW = {name: number for number, names in enumerate(ROWS) for name in names}
ENVIRONMENT = re.compile(
    r"Hopper|HalfCheetah|Walker2d|AntMaze|(hopper|halfcheetah|walker2d|antmaze)-"
)
MARKUP = re.compile(r"\bConsole\((?!.*markup=False)")
FILES = sorted(path.relative_to(SRC) for path in SRC.rglob("*.py"))


def source(path):
    return (SRC / path).read_text(encoding="utf-8")


def imported(tree):
    """Names of the modules that a file imports, those in functions too, for type checkers not."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "stratdiff":  # its modules, or a name such as the version
                yield from (f"stratdiff.{alias.name}" for alias in node.names)
            else:
                yield node.module
        else:
            waiting += ast.iter_child_nodes(node)


IMPORTS = {path: sorted(set(imported(ast.parse(source(path))))) for path in FILES}


def part(path):
    """The row's member that a file belongs to: its folder, or its own name."""
    return path.parts[0].removesuffix(".py")


def own_imports(path):
    """The parts of the package that a file imports."""
    names = (name.split(".") for name in IMPORTS[path] if name.startswith("stratdiff."))
    return {name[1] for name in names if not name[1].startswith("__")}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_downwards(path):
    if part(path) == "__init__":  # the public names
        return
    assert part(path) in ROW, f"{path} stands in no row"
    for name in own_imports(path):
        assert ROW[name] >= ROW[part(path)], f"{path} imports {name} from above"


def test_the_rows_are_the_files():
    assert {part(path) for path in FILES} == {*ROW, "__init__"}


def test_training_knows_no_report():
    assert not [p for p in FILES if part(p) == "training" and "report" in own_imports(p)]
    # Nor does anything below it.
    low = [p for p in FILES if ROW.get(part(p), 0) > ROW["report"]]
    assert len(low) > 50
    assert not [p for p in low if own_imports(p) & {"report", "experiments", "cli"}]


def test_one_file_knows_the_cpu():
    for word in ("platform_dependent", "default_backend"):
        found = [path for path in FILES if word in source(path)]
        assert set(found) <= {Path("cpu.py")}, word
    assert "default_backend" in source("cpu.py")


def test_no_console_reads_markup():
    """Names from outside may hold brackets, which Rich takes for markup, or fails at."""
    consoles = [path for path in FILES if re.search(r"\bConsole\(", source(path))]
    assert len(consoles) > 4 and not [path for path in consoles if MARKUP.search(source(path))]


def test_nothing_imports_fcntl():
    """It is missing on Windows."""
    assert not [p for p in FILES if any(name.split(".")[0] == "fcntl" for name in IMPORTS[p])]


def test_environments_are_named_in_the_task_records_alone():
    allowed = ("tasks.py", "data", "envs")
    for path in FILES:
        if path.parts[0] not in allowed:
            text = source(path)
            if path == Path("config.py"):  # the name of the default data set
                text, n = re.subn(r"(?m)^DEFAULT_DATASET = .*$", "", text)
                assert n == 1
            found = ENVIRONMENT.search(text)
            assert found is None, f"{path} names {found}"
    # It finds what it looks for.
    assert ENVIRONMENT.search(source("tasks.py"))


def test_importing_the_package_loads_no_simulator_no_file_format_and_no_plots():
    heavy = ["mujoco", "h5py", "matplotlib", "minari", "scipy", "ray", "tyro"]
    heavy += ["tensorboard", "wandb", "trackio", "imageio_ffmpeg", "PIL"]
    program = f"""
import json, sys
sys.modules["fcntl"] = None  # as where there is none: importing it fails
import stratdiff
import stratdiff.config, stratdiff.training.loop
print(json.dumps([name for name in {heavy} if name in sys.modules]))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == []


def test_every_public_name_can_be_imported():
    for name in stratdiff.__all__:
        assert getattr(stratdiff, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        stratdiff.nothing_of_the_kind  # noqa: B018
