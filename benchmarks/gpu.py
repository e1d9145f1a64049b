"""What a GPU makes of StratDiff, in one run of less than ten minutes.

    python -m benchmarks.gpu [--out results.json] [--small] [--budget SECONDS]

Prints its tables last and keeps the JSON up to date while it runs. Every section is a process of
its own, so it has the device's memory to itself, and may crash or be cut off without harm to the
others. Cases that are compared take turns. Online updates are many a dispatch here, on a full
replay buffer and without acting; the section `loop` is a real run, with one dispatch a step.

Precisions: "default" is JAX's, which on a recent NVIDIA GPU may be TF32, "tensorfloat32" at least
TF32, and "bfloat16" what `--precision bfloat16` does: operands are rounded, sums are float32.
"""

import argparse
import contextlib
import dataclasses
import functools
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import stratdiff
from benchmarks import ours
from benchmarks.bench import markdown
from stratdiff.files import write_text
from stratdiff.sinks.jsonl import NAME, read_metrics
from stratdiff.sinks.progress import Reporter
from stratdiff.tasks import find_task, make_env
from stratdiff.training import pretrain
from stratdiff.training.environments import Environments
from stratdiff.training.evaluate import Evaluator
from stratdiff.training.summary import versions

Record = dict[str, Any]
Builder = Callable[[], ours.Run]
SEEDS = 8
OFFLINE = ("calql offline", "iql offline", "behaviour step", "energy step", "support rows")
ONLINE = tuple(
    f"{base} online {kind}" for kind in ("guided", "base", "support") for base in ("calql", "iql")
)
SECTIONS = ("device", "offline", "precision", "online", "loop")
DATA_ROWS = 1_000_000
"""Rows of the data set of the extrapolated run, as D4RL's medium sets have them."""
GRACE = 15.0
"""Seconds beyond its time after which a section's process is ended."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    chunk: int = 200
    """Updates a dispatch."""
    rounds: int = 7
    slice_seconds: float = 0.3
    matmuls: tuple[tuple[int, int, int], ...] = ((7680, 256, 200), (8192, 8192, 4))
    """(rows, width, products a dispatch)."""
    online: tuple[str, ...] = ONLINE
    precision: tuple[str, ...] = ("calql offline", "iql offline")
    precisions: tuple[str, ...] = ("default", "tensorfloat32", "float32", "bfloat16")
    loop_steps: int = 5000
    loop_log: int = 500
    loop_rows: int = 100_000
    eval_episodes: int = 10
    build_seconds: float = 30.0
    """A case whose cost is not known yet is not begun with less time left than this."""
    loop_seconds: float = 90.0
    """Kept free for the loop."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


SMALL = Sizes(
    chunk=2,
    rounds=2,
    slice_seconds=0.01,
    matmuls=((64, 32, 4), (128, 128, 4)),
    online=("iql online guided",),
    precision=("iql offline",),
    precisions=("default", "float32"),
    loop_steps=40,
    loop_log=5,
    loop_rows=2000,
    eval_episodes=1,
    build_seconds=5.0,
    loop_seconds=15.0,
    options={
        "batch_size": 16,
        "iql": {"actor_hidden": [8, 8], "critic_hidden": [8, 8]},
        "calql": {"actor_hidden": [8, 8], "critic_hidden": [8, 8], "sampled_actions": 2},
        "behaviour": {"widths": [16, 8], "support_actions": 2, "batch_size": 16, "solver_steps": 2},
        "energy": {"hidden": [8, 8], "batch_size": 16},
    },
)
SMALL_SETUP = {"rows": 2000, "online_steps": 100}

WANTED = {"iql offline": 10_000, "calql offline": 4000} | {
    f"{base} online guided": 1500 for base in ("iql", "calql")
}
WANTED_MULTIPLE, WANTED_MINUTES = 5, 15


def compare(
    builders: Mapping[str, Builder], sizes: Sizes, deadline: float
) -> tuple[dict[str, Record], dict[str, np.ndarray]]:
    """Build all, then time them in turns: (a record each, units/s by round of those that work).

    One that fails, or for which there is no time left, does not stop the others.
    """
    runs, records, longest = {}, {}, sizes.build_seconds
    for name, build in builders.items():
        if time.time() + longest > deadline:
            records[name] = {"skipped": "no time left"}
            continue
        try:
            start = time.perf_counter()
            run = build()
            built = time.perf_counter()
            run(1)
            called = time.perf_counter()
        except Exception as error:
            records[name] = {"error": describe(error)}
            continue
        records[name] = {"build_seconds": built - start, "first_call_seconds": called - built}
        runs[name] = run
        longest = max(longest if len(runs) > 1 else 0, called - start)
    calls = {}
    for name, run in runs.items():
        start = time.perf_counter()
        run(2)
        some = (time.perf_counter() - start) / 2
        calls[name] = max(1, min(1000, round(sizes.slice_seconds / max(some, 1e-6))))
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(sizes.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(calls[name])
            units = calls[name] * getattr(run, "units", 1)
            taken[name].append(units / (time.perf_counter() - start))
    rates = {name: np.array(values) for name, values in taken.items()}
    for name, values in rates.items():
        records[name]["per_second"] = quartiles(values)
    return records, rates


def ratio(a: np.ndarray, b: np.ndarray) -> float:
    """Median over the rounds of a / b."""
    return float(np.median(a / b))


def quartiles(values: Any) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    return {"q1": low, "median": median, "q3": high}


def describe(error: Exception) -> str:
    """The error as one string; where it came from goes to the terminal."""
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


def memory() -> Record:
    """Bytes on the device: the most that this process ever used, and what there is."""
    stats = jax.devices()[0].memory_stats() or {}
    return {key: stats.get(key) for key in ("peak_bytes_in_use", "bytes_limit")}


# The sections. Each yields (case, how to measure it); the deadline is a time.time().

Measure = Callable[[float], Record]


def device_cases(sizes: Sizes) -> Iterator[tuple[str, Measure]]:
    """What the device is, and its rate of matrix products."""

    def about(_: float) -> Record:
        device = jax.devices()[0]
        kind = {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        }
        return kind | {"cores": os.cpu_count(), "versions": versions()} | memory()

    def rates(rows: int, width: int, times: int, deadline: float) -> Record:
        build = functools.partial(matmul, rows, width, times)
        builders = {name: at_precision(name, build) for name in ("default", "float32")}
        records, _ = compare(builders, sizes, deadline)
        for record in records.values():
            if "per_second" in record:
                flop = 2 * rows * width * width
                record["tflops"] = {k: v * flop / 1e12 for k, v in record["per_second"].items()}
        return {"precisions": records}

    yield "about", about
    for rows, width, times in sizes.matmuls:
        yield f"matmul {rows}x{width}x{width}", functools.partial(rates, rows, width, times)


def matmul(rows: int, width: int, times: int) -> ours.Run:
    """Float32 matrix products of random numbers, `times` of them a dispatch."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (rows, width))
    weight = jax.random.normal(keys[1], (width, width)) / np.sqrt(width)
    products = jax.jit(lambda x, w: jax.lax.fori_loop(0, times, lambda _, x: x @ w, x))

    def run(n: int) -> None:
        for _ in range(n):
            out = products(x, weight)
        out.block_until_ready()

    run.units = times  # type: ignore[attr-defined]
    return run


def at_precision(name: str, build: Builder) -> Builder:
    """The builder of the same case with this default precision of matrix products."""

    def context() -> contextlib.AbstractContextManager[Any]:
        if name == "default":
            return contextlib.nullcontext()
        return jax.default_matmul_precision(name)

    def builder() -> ours.Run:
        with context():
            inner = build()

        def run(n: int) -> None:
            with context():
                inner(n)

        run.units = getattr(inner, "units", 1)  # type: ignore[attr-defined]
        return run

    return builder


def case(name: str, sizes: Sizes, seeds: int = 1) -> Builder:
    """The builder of an update, or of the support actions, for so many seeds."""
    build = support_rows if name == "support rows" else ours.CASES[name]
    setup = SMALL_SETUP if sizes.options else {}
    chunk = {} if name == "support rows" else {"chunk": sizes.chunk}
    return functools.partial(
        build, **chunk, **setup, **_base(name), **sizes.options, seeds=tuple(range(seeds))
    )


def _base(name: str) -> Record:
    """What the models' steps leave open: the Q that the energy model learns from."""
    return {"base": "calql"} if name in ("behaviour step", "energy step") else {}


def support_rows(**options: Any) -> ours.Run:
    """Drawing the support actions of D_off."""
    t = ours.Training(**options)
    first = jnp.zeros((), jnp.int32)

    def run(n: int) -> None:
        for _ in range(n):
            t.stored = pretrain.store_rows(t.setup, "support", t.state, t.data, t.stored, first)
        t.stored.block_until_ready()

    run.units = pretrain.STORE_ROWS  # type: ignore[attr-defined]
    return run


def update_cases(cases: Sequence[str], sizes: Sizes) -> Iterator[tuple[str, Measure]]:
    """One seed beside several."""

    def measure(name: str, deadline: float) -> Record:
        builders = {str(n): case(name, sizes, n) for n in (1, SEEDS)}
        records, rates = compare(builders, sizes, deadline)
        found: Record = {"seeds": records}
        several = records[str(SEEDS)]
        if "per_second" in several:
            several["total_per_second"] = {k: SEEDS * v for k, v in several["per_second"].items()}
        if len(rates) == 2:
            found["multiple"] = SEEDS * ratio(rates[str(SEEDS)], rates["1"])
        return found

    for name in cases:
        yield name, functools.partial(measure, name)


def precision_cases(sizes: Sizes) -> Iterator[tuple[str, Measure]]:
    """Precisions of matrix products, beside each other."""

    def measure(name: str, deadline: float) -> Record:
        builders = {p: at_precision(p, case(name, sizes)) for p in sizes.precisions}
        records, rates = compare(builders, sizes, deadline)
        for precision, values in rates.items():
            if "default" in rates:
                records[precision]["speed_over_default"] = ratio(values, rates["default"])
        return {"precisions": records}

    for name in sizes.precision:
        yield name, functools.partial(measure, name)


def loop_cases(sizes: Sizes) -> Iterator[tuple[str, Measure]]:
    """A real run of Cal-QL + StratDiff (guided): online from untrained networks, and evaluation."""
    yield "calql stratdiff", lambda _: loop(sizes)


def loop(sizes: Sizes) -> Record:
    """Steps a second of the online loop by its log points; the shares of its time."""
    config = ours.config(
        base="calql",
        offline_steps=0,
        behaviour_steps=0,
        energy_steps=0,
        online_steps=sizes.loop_steps,
        log_interval=sizes.loop_log,
        eval_interval=10**9,
        eval_episodes=1,
        checkpoint_seconds=1e9,
        **sizes.options,
    )
    data = ours.made_up(sizes.loop_rows)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        result = stratdiff.train(config, directory, data, Reporter(quiet=True))
        points = [r for r in read_metrics(directory / NAME) if r["phase"] == "online"]
    peak = memory()
    # Made beforehand, so that making them is not timed.
    made = [make_env(ours.ENV) for _ in range(sizes.eval_episodes)]
    evaluator = Evaluator(
        Environments(find_task(ours.ENV), made.pop), config.seeds, sizes.eval_episodes
    )
    start = time.perf_counter()
    evaluator(result.policy)
    evaluation = time.perf_counter() - start
    evaluator.close()
    # Left out: the two intervals that compile the step and what an episode's end calls, and the
    # last one, which ends in an evaluation.
    pairs = list(zip(points, points[1:], strict=False))[2:-1]
    rates = [(b["step"] - a["step"]) / max(b["time"] - a["time"], 1e-3) for a, b in pairs]
    parts = dict(result.summary["online_seconds"])
    compile_seconds = parts.pop("compile")
    return {
        "steps": sizes.loop_steps,
        "steps_per_second": quartiles(rates),
        "online_seconds": result.summary["online_seconds"],
        "share": {part: s / sum(parts.values()) for part, s in parts.items()},
        "compile_seconds": compile_seconds,
        "phase_seconds": result.summary["seconds"],
        "evaluation": {"episodes": sizes.eval_episodes, "seconds": evaluation},
    } | peak


def run_section(section: str, sizes: Sizes, deadline: float) -> None:
    """Measure a section in this process: a line of JSON on stdout for every case."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    cases = {
        "device": device_cases,
        "offline": functools.partial(update_cases, OFFLINE),
        "precision": precision_cases,
        "online": functools.partial(update_cases, sizes.online),
        "loop": loop_cases,
    }[section](sizes)
    for name, measure in cases:
        start = time.perf_counter()
        try:
            record = measure(deadline)
        except Exception as error:
            record = {"error": describe(error)}
        record = memory() | record | {"wall_seconds": time.perf_counter() - start}
        print(json.dumps([name, record]), file=answers, flush=True)
        gc.collect()


# The whole of it.


def main() -> int:
    """Run every section, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results.json"), help="the JSON")
    parser.add_argument("--small", action="store_true", help="tiny sizes: a trial")
    parser.add_argument("--budget", type=float, default=540, help="seconds for all of it")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = SMALL if options.small else Sizes()
    if options.section:
        run_section(options.section, sizes, options.deadline)
        return 0
    start = time.time()
    record: Record = {"small": options.small, "budget_seconds": options.budget, "sections": {}}
    for section in SECTIONS:
        found: Record = {"cases": {}}
        record["sections"][section] = found
        reserve = 0.0 if section == "loop" else sizes.loop_seconds
        deadline = start + options.budget - reserve
        began = time.time()
        if began + sizes.build_seconds > deadline:
            found["skipped"] = "no time left"
        else:
            for name, result in section_results(section, options.small, deadline, found):
                found["cases"][name] = result
                if name == "about" and result.get("platform") not in ("gpu", None):
                    print(f"no GPU: this measures {result['kind']!r}", flush=True)
                save(options.out, record)
        found["wall_seconds"] = time.time() - began
        save(options.out, record)
        print(f"{section}: {found['wall_seconds']:.0f} s", file=sys.stderr, flush=True)
    for name, conclude in (("whole run", whole_run), ("targets", targets)):
        try:
            record["sections"][name] = conclude(record["sections"])
        except Exception as error:
            record["sections"][name] = {"error": describe(error)}
    record["wall_seconds"] = time.time() - start
    save(options.out, record)
    sys.stderr.flush()
    print("\n\n".join(tables(record["sections"], options.small)))
    return 0


def save(path: Path, record: Record) -> None:
    """Write beside, then rename."""
    write_text(path, json.dumps(record, indent=1) + "\n")


def section_results(
    section: str, small: bool, deadline: float, found: Record
) -> Iterator[tuple[str, Record]]:
    """The cases of a section as its process tells them; `found` gets the error if it ends badly."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--section", section]
    command += ["--deadline", str(deadline), *(["--small"] if small else [])]
    env = dict(os.environ)
    if small:
        env.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    except OSError as error:
        found["error"] = describe(error)
        return
    late = threading.Event()

    def cut_off() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(max(deadline + GRACE - time.time(), 0), cut_off)
    timer.start()
    try:
        assert process.stdout
        for line in process.stdout:
            with contextlib.suppress(ValueError):  # a line that was cut off
                name, result = json.loads(line)
                yield name, result
        if process.wait() != 0:
            found["error"] = (
                "cut off: out of time"
                if late.is_set()
                else f"its process ended with {process.returncode}; stderr says why"
            )
    finally:
        timer.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()


def whole_run(sections: Record) -> Record:
    """Minutes of the paper's Cal-QL + StratDiff run, EXTRAPOLATED from the rates of one seed.

    Without loading the data, checkpoints and log points.
    """
    config = stratdiff.make_config("paper", env=ours.ENV, base="calql")
    offline_, loop_ = sections["offline"]["cases"], sections["loop"]["cases"]
    work = {
        "base": ("calql offline", config.offline_steps),
        "behaviour": ("behaviour step", config.scoring.behaviour_steps),
        "support": ("support rows", DATA_ROWS),
        "energy": ("energy step", config.scoring.energy_steps),
    }
    missing = [name for name, _ in work.values() if speed(offline_, name) is None]
    if missing or "steps_per_second" not in loop_.get("calql stratdiff", {}):
        return {"skipped": f"not measured: {', '.join(missing) or 'the online loop'}"}
    real = loop_["calql stratdiff"]
    minutes = {part: n / speed(offline_, name) / 60 for part, (name, n) in work.items()}
    minutes["online"] = config.online_steps * config.utd / real["steps_per_second"]["median"] / 60
    evaluations = config.offline_steps // config.offline_eval_interval
    evaluations += config.online_steps // config.eval_interval + 1
    each = real["evaluation"]["seconds"] / real["evaluation"]["episodes"] * config.eval_episodes
    minutes["evaluations"] = evaluations * each / 60
    compiling = [offline_[name]["seeds"]["1"]["first_call_seconds"] for name, _ in work.values()]
    minutes["compiling"] = (sum(compiling) + real["compile_seconds"]) / 60
    updates_ = {"offline": config.offline_steps, "online": config.online_steps, "rows": DATA_ROWS}
    return {
        "extrapolated": True,
        "of": updates_,
        "minutes": minutes,
        "total": sum(minutes.values()),
    }


def speed(cases: Record, name: str) -> float | None:
    """Updates a second of one seed, where they were measured."""
    rates = cases.get(name, {}).get("seeds", {}).get("1", {}).get("per_second")
    return rates["median"] if rates else None


def targets(sections: Record) -> Record:
    """What was wanted beside what was measured; None: not measured."""
    cases = sections["offline"]["cases"] | sections["online"]["cases"]
    found: Record = {}

    def add(what: str, measured: float | None, sign: str, wanted: float) -> None:
        met = None
        if measured is not None:
            met = measured >= wanted if sign == "≥" else measured < wanted
        found[what] = {"measured": measured, "target": f"{sign} {wanted}", "met": met}

    for name, wanted in WANTED.items():
        add(f"{name}, one seed, updates/s", speed(cases, name), "≥", wanted)
    real = sections["loop"]["cases"].get("calql stratdiff", {}).get("steps_per_second", {})
    guided = WANTED["calql online guided"]
    add("calql guided, real loop, steps/s", real.get("median"), "≥", guided)
    for name in (*OFFLINE, *ONLINE):
        if name == "support rows":
            continue
        multiple = cases.get(name, {}).get("multiple")
        add(f"{name}, {SEEDS} seeds over one", multiple, "≥", WANTED_MULTIPLE)
    total = sections["whole run"].get("total")
    add("whole calql run, minutes (extrapolated)", total, "<", WANTED_MINUTES)
    return found


# What is printed.


def tables(sections: Record, small: bool) -> Iterator[str]:
    """Every section as a table, the targets last."""
    device = sections["device"]["cases"]
    about = device.get("about", {})
    text = f"device: {about.get('kind', 'unknown')}, jax {about.get('versions', {}).get('jax')}"
    yield text + (" (tiny sizes: the figures say nothing)" if small else "")
    rows = [
        [precision, spread(r.get("tflops"), 2), seconds(r), remark(r)]
        for name, record in device.items()
        if name != "about"
        for precision, r in variants(name, record)
    ]
    yield markdown(["float32, TFLOP/s", "median (quartiles)", "first call, s", ""], rows)
    rows = []
    for section in ("offline", "online"):
        for name, record in sections[section]["cases"].items():
            one, several = (record.get("seeds", {}).get(str(n), record) for n in (1, SEEDS))
            multiple, peak = record.get("multiple"), record.get("peak_bytes_in_use")
            total, compiling = (
                several.get("total_per_second"),
                f"{seconds(one)}, {seconds(several)}",
            )
            rates = [spread(one.get("per_second")), spread(total), number(multiple, 1)]
            mb = number(None if peak is None else peak / 1e6)
            rows.append([name, *rates, compiling, mb, remark(one) or remark(several)])
    heads = ["units/s", "one seed", f"{SEEDS} seeds, total", "multiple"]
    yield markdown([*heads, "first calls, s", "device peak, MB", ""], rows)
    rows = [
        [
            precision,
            spread(r.get("per_second")),
            number(r.get("speed_over_default"), 2),
            remark(r),
        ]
        for name, record in sections["precision"]["cases"].items()
        for precision, r in variants(name, record)
    ]
    yield markdown(["updates/s by precision", "median (quartiles)", "over default", ""], rows)
    for name, r in sections["loop"]["cases"].items():
        peak = r.get("peak_bytes_in_use")
        rows = [
            ["steps/s", spread(r.get("steps_per_second"))],
            *([f"share of {p}", f"{100 * x:.1f} %"] for p, x in r.get("share", {}).items()),
            ["compiling, s", number(r.get("compile_seconds"), 1)],
            ["evaluation, s", number(r.get("evaluation", {}).get("seconds"), 1)],
            ["device peak, MB", number(None if peak is None else peak / 1e6)],
        ]
        yield markdown([f"{name}, real online loop", remark(r)], rows)
    whole = sections["whole run"]
    rows = [[part, number(m, 2)] for part, m in whole.get("minutes", {}).items()]
    rows.append(["total", number(whole.get("total"), 2)])
    yield markdown(["EXTRAPOLATED whole Cal-QL + StratDiff run, minutes", remark(whole)], rows)
    troubles = {s: remark(r) for s, r in sections.items() if remark(r)}
    if troubles:
        yield markdown(["section", "trouble"], [[s, text] for s, text in troubles.items()])
    rows = [
        [what, number(t["measured"], 1), t["target"], {None: "–", True: "yes"}.get(t["met"], "NO")]
        for what, t in sections["targets"].items()
        if isinstance(t, dict)
    ]
    yield markdown(["target", "measured", "wanted", "met"], rows)


def variants(name: str, record: Record) -> list[tuple[str, Record]]:
    """The compared precisions of a case, or the case itself where it failed."""
    if "precisions" not in record:
        return [(name, record)]
    return [(f"{name}, {precision}", r) for precision, r in record["precisions"].items()]


def remark(record: Record) -> str:
    """Why there is nothing, on one line."""
    text = record.get("error") or record.get("skipped") or ""
    return " ".join(text.split())[:100].replace("|", "/")


def number(value: float | None, digits: int = 0) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def spread(found: Mapping[str, float] | None, digits: int = 0) -> str:
    """Median and quartiles."""
    if not found:
        return "–"
    q1, median, q3 = (number(found[key], digits) for key in ("q1", "median", "q3"))
    return f"{median} ({q1} to {q3})"


def seconds(record: Record) -> str:
    """The seconds of the first call."""
    return number(record.get("first_call_seconds"), 1)


if __name__ == "__main__":
    sys.exit(main())
