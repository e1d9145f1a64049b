"""Commands in processes that have imported everything: a child costs a fork, not three seconds.

As a script it is the server: it forks a child for each job, or does the job itself where the job
says so and compiled programs should stay warm. A job is one line of JSON, and so is its answer.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
MAIN = "stratdiff.cli:main"
# What is counted to give a moment within a run a number: whatever changes the file system.
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    """Exit code; minus the signal's number for a process that a signal ended."""
    text: str
    """What it wrote on both streams."""
    seconds: float
    late: bool = False
    """Whether it had to be killed at its time limit."""


class Child:
    """A forked command."""

    def __init__(self, server, pid, output):
        self.pid, self._server, self._output = pid, server, output
        self._start = time.monotonic()

    def send(self, number):
        """Send a signal to the command alone, as the system or an operator does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, timeout=300.0):
        """Its outcome; the whole session is killed at the time limit."""
        answer = self._server.ask({"wait": self.pid, "timeout": timeout})
        text = self._output.read_text(errors="replace")
        return Outcome(answer["code"], text, time.monotonic() - self._start, answer["late"])

    def session(self):
        """The processes that it left behind."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.pid and fields[0] != "Z":
                    found.append(int(stat.parent.name))
        return found


class Server:
    """A server process; `folder` keeps its children's output."""

    def __init__(self, folder, cache, path):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._cache, self._path, self._jobs = folder, cache, path, 0
        self._process = None

    def start(self, *args, call=MAIN, **job):
        """A child that runs a command; see `_prepare` for what a job may hold."""
        return self._start({"call": call, "args": [_words(args)] if call == MAIN else args, **job})

    def run(self, *args, timeout=300.0, **job):
        """The outcome of a command in a child."""
        return self.start(*args, **job).wait(timeout)

    def here(self, *args, call=MAIN, **job):
        """The outcome of a command in the server itself: its programs stay compiled."""
        output, start = self._output(), time.monotonic()
        arguments = [_words(args)] if call == MAIN else args
        said = {"call": call, "args": arguments, "output": str(output), "inline": True, **job}
        try:
            code = self.ask(said)["code"]
        except RuntimeError as error:  # the next job gets a new server
            code = error.args[0]
        return Outcome(code, output.read_text(errors="replace"), time.monotonic() - start)

    def _start(self, job):
        output = self._output()
        return Child(self, self.ask({"output": str(output), **job})["pid"], output)

    def _output(self):
        self._jobs += 1
        path = self._folder / f"{os.getpid()}-{self._jobs}.txt"
        path.touch()
        return path

    def ask(self, job):
        """The server's answer to a job; `RuntimeError` with its exit code where it has ended."""
        if self._process is None:
            env = os.environ | {
                "PYTHONPATH": os.pathsep.join(map(str, self._path)),
                "JAX_PLATFORMS": "cpu",
                "JAX_COMPILATION_CACHE_DIR": str(self._cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "PYTHONDONTWRITEBYTECODE": "1",
                "MPLBACKEND": "Agg",
            }
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=env,
                cwd=self._folder,
            )
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            code, self._process = self._process.wait(), None
            raise RuntimeError(code)
        return json.loads(answer)

    def close(self):
        if self._process is not None:
            self._process.communicate(timeout=30)


def _words(args):
    return [str(a) for a in args]


# --- the server ---


def _prepare(job):
    """What a job asks for besides its call: `cwd`, `env`, `memory` and `file_size` (bytes), streams
    that are `full`, `signal` ([number, of which change below `root`]), `changes`: a file for their
    count."""
    os.chdir(job.get("cwd", "."))
    os.environ.update(job.get("env", {}))
    for name in job.get("full", ()):
        os.dup2(os.open("/dev/full", os.O_WRONLY), getattr(sys, name).fileno())
    if "memory" in job:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + job["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if "file_size" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
    if "root" in job:
        number, moment = job.get("signal", (0, 0))
        seen = 0

        def watch(event, args):
            nonlocal seen
            if event in CHANGES and str(args[0]).startswith(job["root"]):
                seen += 1
                if seen == moment:
                    os.kill(os.getpid(), number)

        sys.addaudithook(watch)
        return lambda: seen
    return lambda: 0


def _function(job):
    module, _, name = job["call"].partition(":")
    return getattr(importlib.import_module(module), name)


def _do(job):
    """The exit code of a job in this process, as the interpreter would give it."""
    from stratdiff import registry
    from stratdiff.errors import UserError

    registry._trusted.clear()
    try:
        return _function(job)(*job["args"]) or 0
    except UserError as error:  # a call from Python; the command prints it itself
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def _into(path, old=(1, 2)):
    """Lead the streams into a file; copies of what they were."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(fd) for fd in old]
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for fd in old:
        os.dup2(file, fd)
    os.close(file)
    return kept


def _inline(job):
    os.environ.update(job.get("env", {}))
    kept = _into(job["output"])
    try:
        return _do(job)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, old in zip((1, 2), kept, strict=True):
            os.dup2(old, fd)
            os.close(old)


def _wait(pid, timeout):
    """(exit code, whether it was killed for being late)."""
    limit, late = time.monotonic() + timeout, False
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), late
        if time.monotonic() > limit and not late:
            late = True
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.005)


def _serve(jobs, answers):
    """Answer jobs; returns in a child with the job that it is to do, or None at the end."""
    for line in jobs:
        job = json.loads(line)
        if "wait" in job:
            code, late = _wait(job["wait"], job["timeout"])
            answer = {"code": code, "late": late}
        elif job.get("inline"):
            answer = {"code": _inline(job)}
        else:
            pid = os.fork()
            if pid == 0:
                return job
            answer = {"pid": pid}
        print(json.dumps(answer), file=answers, flush=True)
    return None


def _main():
    jobs = os.fdopen(os.dup(0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what an environment prints is no answer
    for name in (
        "h5py", "jax", "matplotlib.pyplot", "optax", "orbax.checkpoint", "pointmass",
        "stratdiff.cli.compare", "stratdiff.cli.data", "stratdiff.cli.evaluate",
        "stratdiff.cli.report", "stratdiff.cli.resume", "stratdiff.cli.train",
    ):  # fmt: skip
        importlib.import_module(name)
    gc.freeze()  # or a child copies all of it when it ends
    job = _serve(jobs, answers)
    if job is None:
        return 0
    os.setsid()
    jobs.close()
    answers.close()
    for fd in _into(job["output"]):
        os.close(fd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    count = _prepare(job)
    if job["call"] == MAIN:  # the program itself, with its signals and streams
        sys.argv = ["stratdiff", *job["args"][0]]
        code = _function(job)()
    else:
        code = _do(job)
    for number in (signal.SIGINT, signal.SIGTERM):  # the command is over; Python alone ends
        signal.signal(number, signal.SIG_IGN)
    if "changes" in job:
        Path(job["changes"]).write_text(str(count()))
    return code


if __name__ == "__main__":
    sys.exit(_main())
