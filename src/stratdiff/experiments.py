"""An experiment: a declared file of tasks × variants × seeds, and the runs that it asks for.

Every cell (task, variant) is one run of all its seeds in a process of its own, in OUT/TASK/VARIANT.
Cells that would pre-train alike share the offline phases (training/shared.py).
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from stratdiff import registry
from stratdiff.agents.base import AGENTS
from stratdiff.cells import Cell, on_ray, side_by_side
from stratdiff.config import RunOptions, config_of, difference, read_config
from stratdiff.data.sources import check
from stratdiff.errors import UserError, nearest
from stratdiff.files import MARK, marking
from stratdiff.options import NoOptions, flat, takes_list
from stratdiff.presets import PROTOCOLS, override
from stratdiff.reading import SMALL, read_table, read_toml
from stratdiff.scores.base import SCORES
from stratdiff.sinks.board import Board
from stratdiff.sinks.progress import number
from stratdiff.splits import split_class

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}")
# A slip of the pen, such as ten lists of ten values, ends here.
_MOST = 1000
# Options that decide which other options there are.
_CHOICES = ("protocol", "base", "score", "split")
_KEYS = ("preset", "seeds", "options", "tasks", "variants")


def read_spec(path: str | Path) -> list[Cell]:
    """The cells of an experiment's TOML file, task by task.

    Options of a run (`stratdiff train --help`) stand in `[options]`, for all cells; in
    `[tasks.NAME]`, with the `dataset`; and in `[variants.NAME]`. Later ones win, in this order.
    `tasks` in a variant: the tasks that it is run on; default: all. A list of values for an option
    that takes one makes a variant of each value, several lists one of each combination.

    Raises:
        UserError: the file is missing, is no TOML, or asks for something that no run can do.
    """
    where = f"experiment file {str(path)!r}"
    spec = read_toml(path, "experiment file")

    def expect(holds: Any, what: str) -> None:
        if not holds:
            raise UserError(f"{where}: {what}")

    for key in spec:
        expect(key in _KEYS, f"unknown key {key!r}; nearest: {nearest(key, _KEYS)}.")
    for kind in ("tasks", "variants"):
        named = spec.get(kind, {})
        whole = isinstance(named, dict) and all(isinstance(x, dict) for x in named.values())
        expect(whole, f"{kind} is {named!r}; give a table [{kind}.NAME] for each.")
        expect(named, f"no [{kind}.NAME] was found; give one or more.")
        for name in named:
            allowed = "use letters, digits and . _ = + - only, and not 'pretrained'"
            folder = name != "pretrained" and _NAME.fullmatch(name)
            expect(folder, f"[{kind}.{name}] names a folder; {allowed}.")
    cells: list[Cell] = []
    names: set[str] = set()
    common = spec.get("options", {})
    expect(isinstance(common, dict), f"options is {common!r}; it must be a table [options].")
    for task, of_task in spec["tasks"].items():
        said = f"[tasks.{task}] has no dataset; give a name or an HDF5 file's path."
        expect("dataset" in of_task, said)
        for variant, of_variant in spec["variants"].items():
            own = dict(of_variant)
            tasks = own.pop("tasks", [*spec["tasks"]])
            known = isinstance(tasks, list) and all(t in [*spec["tasks"]] for t in tasks)
            said = f"variants.{variant}.tasks is {tasks!r}; it must be a list of names of tasks."
            expect(known, said)
            for key in own:
                option = f"variants.{variant}.{key}"
                place = {"preset": "at the top of the file", "dataset": "in a task"}.get(key)
                expect(not place, f"{option} must stand {place}.")
                quoted = f'a name with a dot needs quotes: [variants."{variant}.{key}"]'
                said = f"[{option}] is a table within a table; {quoted}."
                expect(not key[:1].isdigit(), said)
            if task not in tasks:
                continue
            try:
                swept = [*islice(_combinations(variant, own, common | of_task), _MOST)]
            except UserError as error:
                raise UserError(f"{where}: {task}/{variant}: {error}") from error
            expect(len(cells) + len(swept) < _MOST, f"it asks for {_MOST:,} cells or more.")
            for name, of_cell in swept:
                options = {"seeds": spec["seeds"]} if "seeds" in spec else {}
                for table in (common, of_task, of_cell):
                    override(options, table)
                cell = f"{task}/{name}"
                short = "give values that make one of at most 200 characters"
                expect(_NAME.fullmatch(name), f"{cell} is no name of a folder; {short}.")
                twice = "is asked for twice; every value of a list must be another"
                expect(cell not in names, f"{cell} {twice}.")
                names.add(cell)
                expect(
                    "preset" not in options, f"{cell}: preset must stand at the top of the file."
                )
                try:
                    config = config_of(options, spec.get("preset", "paper"))
                    check(config.dataset, config.environment)
                except UserError as error:
                    said = str(error).removeprefix("the options given: ")
                    raise UserError(f"{where}: {cell}: {said}") from error
                cells.append(Cell(task, name, config))
    expect(cells, "no cell is left: every variant's `tasks` is empty.")
    return cells


def _combinations(
    name: str, own: dict[str, Any], others: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, options) of each combination of the values of a variant's lists.

    `own` are the variant's options, `others` those below them. An option that is itself a list (the
    seeds, the widths of a network) has one value, that list.

    Raises:
        UserError: a list is empty, holds something else than values, or stands below a variant.
    """
    options: dict[str, Any] = {}
    for table in (others, own):
        override(options, table)
    given, of_variant = flat(options), flat(own)
    # What decides which other options there are comes first.
    for option in sorted({**of_variant, **given}, key=lambda option: option not in _CHOICES):
        values = given[option]
        if not isinstance(values, list) or _is_list(options, option) is not False:
            continue
        said = f"{option} is {values!r}"
        if option not in of_variant:
            raise UserError(f"{said}; a list of values must stand in [variants.NAME].")
        if not values or not all(isinstance(x, bool | int | float | str) for x in values):
            raise UserError(f"{said}; it must be one value, or a list of some.")
        for value in values:
            one: dict[str, Any] = {}
            override(one, own)
            override(one, _nested(option, value))
            yield from _combinations(f"{name}-{option}={_word(value)}", one, others)
        return
    yield name, own


def _is_list(options: dict[str, Any], name: str) -> bool | None:
    """Whether the option `name` (dotted) is itself a list in a run of these options.

    None: the parts that these options choose have no option of this name.
    """
    if name in _CHOICES:
        return False
    of_protocol = PROTOCOLS.get(str(options.get("protocol", "stratdiff")), {})
    base, score, split = (
        str(options.get(key) or of_protocol.get(key) or getattr(RunOptions, key))
        for key in _CHOICES[1:]
    )
    agent = AGENTS.find(base)
    of_agent = agent.options if name.startswith(f"{agent.name}.") else NoOptions
    for kind, own in (
        (RunOptions, name),
        (of_agent, name.removeprefix(f"{agent.name}.")),
        (SCORES.find(score).options, name),
        (split_class(split, score).options, name),
    ):
        if (found := takes_list(kind, own)) is not None:
            return found
    return None


def _nested(name: str, value: Any) -> dict[str, Any]:
    """A table of tables with one value, by its dotted name."""
    for key in reversed(name.split(".")):
        value = {key: value}
    return dict(value)


def _word(value: Any) -> str:
    """A value as part of a folder's name."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^A-Za-z0-9._=+-]", "-", text)


def compare(
    cells: list[Cell],
    out: str | Path,
    ray: bool = False,
    say: Callable[[str], None] = print,
    jobs: int = 1,
) -> dict[str, str]:
    """Do the runs that are missing below `out`; what is done is skipped, what was cut off goes on.

    `ray`: on a Ray cluster (the one that is running, or one of this machine's cores); `out` and
    the data must be reachable from all of its machines. `jobs`: so many at a time on this machine,
    which shares its cores out among them; the results do not depend on it.

    Returns:
        What went wrong, by cell's name.

    Raises:
        UserError: `out` cannot be written, `jobs` is below 1, or Ray is asked for and is not
            installed.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; it must be 1 or more.")
    if ray and jobs > 1:
        raise UserError(f"--jobs is {jobs}, but --ray decides how many runs there are at a time.")
    out = Path(out)
    try:
        (out / "pretrained").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        said = f"where no folder can be made ({error.strerror}); give another."
        raise UserError(f"--out is {str(out)!r}, {said}") from error
    stopped = {cell.name: _obstacle(cell, out / cell.name) for cell in cells}
    failed = {name: reason for name, reason in stopped.items() if reason}
    waiting = [c for c in cells if c.name not in failed and not _summary(out / c.name)]
    done = len(cells) - len(waiting) - len(failed)
    say(f"{len(cells)} cells: {done} done before, {len(failed)} that cannot be run")
    trusted = registry.trusted()  # the processes of the cells are told nothing else
    board = Board([cell.name for cell in waiting], jobs)
    if ray:
        finished = on_ray(waiting, out, trusted)
    else:
        finished = side_by_side(waiting, out, trusted, jobs, board.tell)
    # Ray's processes tell no progress: a line for each that is done is all there is.
    shown = contextlib.nullcontext() if ray else board
    with marking(out / MARK), shown, contextlib.closing(finished):
        for i, (cell, wrong) in enumerate(finished, 1):
            words = wrong or _result(out / cell.name)
            if wrong or not words:
                failed[cell.name] = words = wrong or (
                    "it is done, but its summary.json cannot be read on this machine, below "
                    f"{str(out.absolute())!r}; give an --out that all machines share."
                )
            if not ray:
                board.finish(cell.name, words, cell.name in failed)
            say(f"{i}/{len(waiting)} {cell.name}: {words}")
    return failed


def _obstacle(cell: Cell, directory: Path) -> str:
    """Why the cell cannot be run there, or ''."""
    path = directory / "config.json"
    if not path.exists():
        return ""
    try:
        found = read_config(path)
    except UserError as error:
        return f"{error} Remove {str(directory)!r} to train that cell anew."
    # Where it gives no environment, the run wrote down the one that its data names.
    named = {key: getattr(cell.config, key) or getattr(found, key) for key in ("env", "env_spec")}
    wanted = dataclasses.replace(cell.config, **named).located()
    other = difference(found, wanted)
    return other and (
        f"{str(directory)!r} holds a run with {other}, which the experiment asks for; give another "
        "--out, or remove that run."
    )


def _summary(directory: Path) -> dict[str, Any]:
    """A finished run's summary.json; empty where it cannot be read, and so is made again."""
    found: dict[str, Any] = {}
    with contextlib.suppress(UserError):
        found = read_table(directory / "summary.json", "summary", SMALL)
    return found if (directory / "config.json").exists() else {}


def _result(directory: Path) -> str:
    """A finished run in a line; empty where its summary.json cannot be read."""
    if not (summary := _summary(directory)):
        return ""
    scores = " -> ".join(number(found["mean"]) for found in summary["score"].values())
    minutes = sum(summary["seconds"].values()) / 60
    return f"{scores} ({len(summary['seeds'])} seeds, {minutes:.1f} minutes of training)"
