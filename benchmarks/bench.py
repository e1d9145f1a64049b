"""`make bench`: every figure of docs/performance.md in one run, which took 19 minutes on two cores.

    python -m benchmarks.bench [--small] [--only SECTION ...]

Writes benchmarks/results/MACHINE.json and MACHINE.md, and prints the tables. Cases that are
compared take turns (benchmarks/worker.py); a ratio is the median over the rounds of paired ratios.
"""

import argparse
import datetime
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import loop, memory
from benchmarks.worker import Timing, Worker, ratio, take_turns
from stratdiff import compiled, cpu
from stratdiff.files import write_text

RESULTS = Path(__file__).parent / "results"
Record = dict[str, Any]


def main() -> int:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few rounds and rows: a trial")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="these sections")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    name = "trial" if options.small or options.only else machine_name()
    record: Record = {"about": about(), "sections": {}}
    text = [f"{record['about']['processor']}, {os.cpu_count()} cores, {record['about']['date']}"]
    # Workers share what they compile, as runs do; a program's first call is still its first.
    cache = tempfile.TemporaryDirectory(prefix="stratdiff-bench-")  # gone with this process
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = str(compiled.MIN_SECONDS)
    for section in options.only or SECTIONS:
        start = time.perf_counter()
        found, table = SECTIONS[section](options.small)
        found["wall_seconds"] = time.perf_counter() - start
        record["sections"][section] = found
        text += [f"### {section}", table]
        write_text(RESULTS / f"{name}.json", json.dumps(record, indent=1) + "\n")
        write_text(RESULTS / f"{name}.md", "\n\n".join(text) + "\n")
        print(f"{section}: {found['wall_seconds']:.0f} s", file=sys.stderr, flush=True)
    print("\n\n".join(text))
    return 0


def updates(small: bool) -> tuple[Record, str]:
    """Our updates beside d3rlpy's, the eager reference and the machine's own limit."""
    kinds = ("base", "origin", "support", "exchange", "guided")
    groups = [
        ["iql offline", "d3rlpy iql"],
        ["calql offline", "d3rlpy calql"],
        [*(f"iql online {k}" for k in kinds), EAGER],
        [f"calql online {k}" for k in kinds],
        [
            "rebrac offline",
            "behaviour step",
            "energy step",
            "guided sampling of 256",
            "support of one transition",
        ],
    ]
    timings: dict[str, Timing] = {}
    rates: list[tuple[float, float]] = []
    with Worker("benchmarks.ours") as ours, Worker("benchmarks.peers") as peers:
        for group in groups:
            names = [MATMUL, MATMUL_BF16, *group]
            found = turns(ours, names, small, peers)
            rates.append((rate(found[MATMUL]), rate(found[MATMUL_BF16])))
            for name in group:
                timings[name] = found[name]
    limits = {
        name: limit(timings[name], *rates[i]) for i, group in enumerate(groups) for name in group
    }
    rows = []
    for name, t in timings.items():
        r = t.record()["ms"]
        spread = f"{r['q1']:.2f} to {r['q3']:.2f}"
        share = f"{limits[name] / t.median:.2f}" if limits[name] else "–"
        rows.append([name, f"{t.median:.2f}", spread, share, f"{t.first_seconds:.1f}"])
    table = markdown(["ms", "median", "quartiles", "of the limit", "first call, s"], rows)
    pairs = [
        ("IQL update, d3rlpy / ours", "d3rlpy iql", "iql offline", "≥ 3.2"),
        ("Cal-QL update, d3rlpy / ours", "d3rlpy calql", "calql offline", "≥ 1.7"),
        ("StratDiff IQL, eager / `guided`", EAGER, "iql online guided", "≥ 3"),
        ("Cal-QL online, `support` / base", "calql online support", "calql online base", "≤ 0.85"),
        ("IQL online, `support` / base", "iql online support", "iql online base", "≤ 2"),
        ("IQL online, `exchange` / ratio", "iql online exchange", "iql online support", "≤ 1.05"),
        ("Cal-QL online, `exchange` / ratio", "calql online exchange", "calql online support", "–"),
        ("IQL online, `origin` / base", "iql online origin", "iql online base", "≤ 1.1"),
        ("Cal-QL online, `origin` / base", "calql online origin", "calql online base", "≤ 0.7"),
    ]
    ratios = {what: ratio(timings[a], timings[b]) for what, a, b, _ in pairs}
    ratios["Cal-QL update / its arithmetic"] = (
        timings["calql offline"].median / limits["calql offline"]
    )
    own = {name: t.first_seconds for name, t in timings.items() if name not in PEERS}
    longest = max(own, key=lambda name: own[name])
    with Worker("benchmarks.ours") as later:
        again = later.ask(longest, 1)["first_seconds"]
    ratios |= {"longest first call, s": own[longest], "the same in a later process, s": again}
    wanted = {what: target for what, _, _, target in pairs}
    wanted |= {"Cal-QL update / its arithmetic": "≤ 1.6", "longest first call, s": "≤ 8"}
    wanted["the same in a later process, s"] = "≤ 2"
    rows = [[what, f"{value:.2f}", wanted[what]] for what, value in ratios.items()]
    table += "\n\n" + markdown(["ratio", "measured", "target"], rows)
    median_rate = [sorted(x)[len(x) // 2] for x in zip(*rates, strict=True)]
    table += f"\n\nMatrix products, GFLOP/s: {median_rate[0]:.0f} float32, "
    table += f"{median_rate[1]:.0f} bfloat16 (medians; the limit uses those of the row's group)."
    return {
        "cases": {name: t.record() | {"limit_ms": limits[name]} for name, t in timings.items()},
        "ratios": ratios,
        "gflops": rates,
    }, table


def small_networks(small: bool) -> tuple[Record, str]:
    """Networks of 2 × 64 and batches of 128, what people without a GPU train: on one thread.

    The limit is that of a small product, 128 × 64 × 64: at this size the rate is another one.
    """
    sizes = {"hidden": [64, 64], "batch_size": 128}
    peers_sizes = {"iql": sizes, "calql": sizes | {"n_action_samples": 4}}
    kinds = ("base", "origin", "likelihood", "support", "exchange")
    product = named("matmul", rows=128, width=64, times=1000)
    # A program is for a number of threads, which JAX's key does not know.
    apart = {"JAX_ENABLE_COMPILATION_CACHE": "0"}
    one = apart | {"NPROC": "1", "OMP_NUM_THREADS": "1"}
    record: Record = {}
    rows = []
    with (
        Worker("benchmarks.ours", one) as ours,
        Worker("benchmarks.ours", apart) as wide,
        Worker("benchmarks.peers", one) as peers,
    ):
        for base in ("iql", "calql"):
            offline, plain = f"{base} offline", f"{base} online base"
            names = [offline, *(f"{base} online {kind}" for kind in kinds)]
            cases = {name: named(name, small=True, chunk=50) for name in names}
            everything = [(ours, product), *((ours, case) for case in cases.values())]
            theirs = named(f"d3rlpy {base}", **peers_sizes[base])
            everything += [(wide, cases[offline]), (peers, theirs)]
            rate_of, *timings = in_turns(everything, small)
            heads = [*names, f"{offline}, all threads", f"d3rlpy {base}"]
            found = dict(zip(heads, timings, strict=True))
            for name, t in found.items():
                over = ratio(t, found[plain if "online" in name else offline])
                # The rate is that of one thread.
                alone = name != f"{offline}, all threads"
                bound = limit(t, rate(rate_of), rate(rate_of)) if alone else None
                record[name] = t.record() | {"over_plain": over, "limit_ms": bound}
                share = f"{bound / t.median:.2f}" if bound else "–"
                time_ = f"{1000 * t.median:.0f}"
                rows.append([name, time_, f"{over:.2f}", share, f"{t.first_seconds:.1f}"])
    heads = ["µs", "over offline, or the online base", "of the limit", "first call, s"]
    return {"cases": record}, markdown(["networks of 2 × 64", *heads], rows)


def online_loop(small: bool) -> tuple[Record, str]:
    """The online loop of real runs in HalfCheetah-v4."""
    plans: list[tuple[str, int, Record]] = [
        ("iql base, UTD 1", 1000, {"base": "iql", "score": "none"}),
        ("iql base, UTD 10", 100, {"base": "iql", "score": "none", "utd": 10}),
        ("iql support, UTD 1", 200, {"base": "iql", "score": "support"}),
        ("iql support, UTD 10", 30, {"base": "iql", "score": "support", "utd": 10}),
        ("iql guided, UTD 1", 40, {"base": "iql", "score": "guided"}),
        ("calql base, UTD 1", 100, {"base": "calql", "score": "none"}),
        ("calql support, UTD 1", 100, {"base": "calql", "score": "support"}),
    ]
    found = {name: loop.measure(20 if small else n, **o) for name, n, o in plans}
    with Worker("benchmarks.ours") as ours:
        acting = turns(ours, ["act"], small)["act"]
    rows = []
    for name, r in found.items():
        share = [f"{100 * r['share'][part]:.1f} %" for part in ("device", "environment", "python")]
        rate_, seconds = f"{r['steps_per_second']:.0f}", f"{r['compile_seconds']:.1f}"
        rows.append([name, rate_, *share, seconds])
    heads = ["online loop", "steps/s", "device", "environment", "Python, dispatch", "compiling, s"]
    text = markdown(heads, rows)
    text += f"\n\nOne action as a dispatch of its own takes {acting.median:.2f} ms; "
    text += "in the loop it is part of the device's share."
    return {"runs": found, "act": acting.record()}, text


def seeds(small: bool) -> tuple[Record, str]:
    """S seeds in one process against S runs one after another."""
    counts = (1, 2) if small else (1, 4)
    record, rows = {}, []
    bases = ("iql offline", "calql offline", "iql online support")
    for case in bases:
        names = [named(case, seeds=list(range(n))) for n in counts]
        with Worker("benchmarks.ours") as ours:
            found = turns(ours, names, small)
        one = found[names[0]]
        record[case] = {
            n: ratio(found[name], one) / n for n, name in zip(counts, names, strict=True)
        }
        rows.append([case, *(f"{x:.2f}" for x in record[case].values())])
    heads = ["time over S single runs", *(f"S = {n}" for n in counts)]
    return {"time_over_single_runs": record}, markdown(heads, rows)


def sizes(small: bool) -> tuple[Record, str]:
    """What the sizes of data, batch, support and solver cost, each over its first value."""
    sweeps: list[tuple[str, str, Sequence[Any], Callable[[Any], Record]]] = [
        ("rows of D_off", "iql offline", (10**5, 10**7), lambda n: {"rows": n}),
        ("batch", "iql offline", (256, 1024), lambda n: {"batch_size": n}),
        ("M", "iql online support", (8, 16, 32),
         lambda n: {"behaviour": {"support_actions": n}}),
        ("solver steps", "guided sampling of 256", (8, 15),
         lambda n: {"behaviour": {"solver_steps": n}}),
    ]  # fmt: skip
    record, rows = [], []
    for what, case, values, options in sweeps:
        values = values[:2] if small else values
        names = [named(case, **options(v)) for v in values]
        with Worker("benchmarks.ours") as ours:
            found = turns(ours, names, small)
        over = [ratio(found[name], found[names[0]]) for name in names]
        ms = [found[name].median for name in names]
        record.append({"what": what, "case": case, "values": list(values), "ms": ms, "over": over})
        cells = [f"{v:,}: {m:.2f} ms ({o:.2f} ×)" for v, m, o in zip(values, ms, over, strict=True)]
        rows.append([f"{case}, {what}", "; ".join(cells)])
    return {"sweeps": record}, markdown(["size", "value: median (over the first)"], rows)


def big_data(small: bool) -> tuple[Record, str]:
    """Training on a file of 10^7 rows: peak memory."""
    found = memory.measure(10**5 if small else 10**7)
    rows = [[key.replace("_", " "), f"{value:,.2f}"] for key, value in found.items()]
    return {"memory": found}, markdown(["10^7 rows", "MB, or a ratio"], rows)


def precision(small: bool) -> tuple[Record, str]:
    """What reduced precision is worth, in sampling and in updates."""
    sampling = ["guided sampling of 256", "support of one transition"]
    updates = ["iql offline", "calql offline"]
    names = sampling + updates
    low, full = (
        [named(name, behaviour={"precision": precision}) for name in sampling]
        + [named(name, precision=precision) for name in updates]
        for precision in ("bfloat16", "float32")
    )
    with Worker("benchmarks.ours") as ours:
        found = turns(ours, low + full, small)
    record = {n: ratio(found[f], found[h]) for n, f, h in zip(names, full, low, strict=True)}
    rows = [[name, f"{value:.2f}"] for name, value in record.items()]
    return {"float32_over_bfloat16": record}, markdown(["float32 / bfloat16", "time"], rows)


SECTIONS: dict[str, Callable[[bool], tuple[Record, str]]] = {
    "updates": updates,
    "small networks": small_networks,
    "online loop": online_loop,
    "seeds": seeds,
    "sizes": sizes,
    "precision": precision,
    "memory": big_data,
}
EAGER = "eager stratdiff iql guided"
PEERS = ("d3rlpy iql", "d3rlpy calql", EAGER)
MATMUL, MATMUL_BF16 = "matmul", 'matmul {"dtype": "bfloat16"}'


def turns(
    ours: Worker, names: Sequence[str], small: bool, peers: Worker | None = None
) -> dict[str, Timing]:
    """Timings of these cases, taken in turns."""
    cases = [(peers if peers and name in PEERS else ours, name) for name in names]
    return dict(zip(names, in_turns(cases, small), strict=True))


def in_turns(cases: Sequence[tuple[Worker, str]], small: bool) -> list[Timing]:
    """As `take_turns`, a trial or in full."""
    return take_turns(cases, rounds=2 if small else 5, slice_seconds=0.02 if small else 0.4)


def named(case: str, **options: Any) -> str:
    """A case with options, as the worker takes it."""
    return f"{case} {json.dumps(options)}"


def rate(matmul: Timing) -> float:
    """Floating-point operations per second / 10^9."""
    return sum(matmul.flop.values()) / matmul.median / 1e6


def limit(t: Timing, float32: float, bfloat16: float) -> float | None:
    """Milliseconds that the matrix products of a unit take at the measured rates."""
    if not t.flop:
        return None
    rates = {"float32": float32, "bfloat16": bfloat16}
    return sum(n / rates[kind] / 1e6 for kind, n in t.flop.items())


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def about() -> Record:
    """The machine and the software."""
    names = ("stratdiff", "jax", "numpy", "mujoco", "torch", "d3rlpy")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in names},
    }


def processor() -> str:
    """What the operating system calls the processor."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def machine_name() -> str:
    """A file name for this machine; processors of one name differ in the vectors that they have."""
    known = cpu.processor()
    vectors = next((v for v in ("amx", "avx512", "avx2") if v in known), "")
    name = re.sub(r"[^a-z0-9]+", "-", f"{processor()} {vectors}".lower()).strip("-")
    return f"{name}-{os.cpu_count()}-cores"


if __name__ == "__main__":
    sys.exit(main())
