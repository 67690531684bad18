"""Engines that take turns: processes, turns, and what their times say.

Only one engine works at a time. A turn starts when the threads of the one before have come to rest, so engines whose
idle threads spin for a while do not disturb the next, and each runs with the waiting that it ships with.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import time

import numpy

import environment

TOLERANCE = 1e-3  # of the largest element of the reference
RETRIES = 5  # of a turn in which other processes used the CPU


class EngineError(Exception):
    """An engine could not do what it was asked for."""


class Engine:
    """The process of one engine; see `python_worker.py` for what is said."""

    def __init__(self, name, threads):
        command = [str(word) for word in environment.command(name)]
        log = environment.TARGET / "logs" / f"{name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        cache = environment.TARGET / "cache" / str(os.getpid())
        variables = dict(os.environ, XDG_CACHE_HOME=str(cache))
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=variables,
            )
        self.version = self._reply()["version"]

    def ask(self, **request):
        """Sends a request and waits for the reply."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the reply tells what happened
        return self._reply()

    def _reply(self):
        line = self.process.stdout.readline()
        if not line:
            words = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise EngineError(f"ended with status {self.process.wait()}: {' '.join(words)[:300]}")
        reply = json.loads(line)
        if "error" in reply:
            raise EngineError(reply["error"])
        return reply

    def cpu_seconds(self):
        """CPU time of the process so far."""
        return time.clock_gettime((~self.process.pid << 3) | 2)  # as clock_getcpuclockid(3) names it

    def rest(self):
        """Waits until its threads sleep, for a second at most; gives whether they do."""
        for _ in range(500):
            before = self.cpu_seconds()
            time.sleep(0.002)
            if self.cpu_seconds() - before < 0.0001:
                return True
        return False

    def turn(self, seconds):
        """Milliseconds of runs, and whether other processes used the CPU meanwhile."""
        others, start = busy_seconds() - self.cpu_seconds(), time.monotonic()
        times = self.ask(time=seconds)["times_ms"]
        elapsed = time.monotonic() - start
        others = busy_seconds() - self.cpu_seconds() - others
        return times, others > 0.02 + 0.1 * elapsed  # the kernel counts hundredths of a second

    def close(self):
        self.process.stdin.close()
        self.process.wait()


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one contestant loads: a file, its inputs (`.npy` files), and what its output must be close to."""

    engine: str
    model: pathlib.Path
    inputs: dict[str, pathlib.Path]
    reference: numpy.ndarray | None


class Race:
    """Engines by contestant's label; each is started when it is first needed and serves all races."""

    def __init__(self, threads, seconds, rounds):
        self.threads, self.seconds, self.rounds = threads, seconds, rounds
        self.engines, self.unavailable, self.versions = {}, {}, {}

    def _engine(self, label, name):
        if name in self.unavailable:
            raise EngineError(self.unavailable[name])
        engine = self.engines.get(label)
        if engine is None or engine.process.poll() is not None:
            try:
                engine = self.engines[label] = Engine(name, self.threads)
            except (environment.Unavailable, EngineError) as reason:
                self.unavailable[name] = str(reason)
                raise EngineError(str(reason)) from None
            self.versions[name] = engine.version
        return engine

    def run(self, entries, folder):
        """Times contestants, `{label: Entry}`, in turns; gives `{label: times or {"error": reason}}`."""
        ready, results = {}, {}
        for label, entry in entries.items():
            try:
                engine = self._engine(label, entry.engine)
                output = folder / "output.npy"
                inputs = {name: str(path) for name, path in entry.inputs.items()}
                reply = engine.ask(load=str(entry.model), inputs=inputs, output=str(output))
                error = difference(numpy.load(output), entry.reference)
                if not error <= TOLERANCE:
                    raise EngineError(f"its output is wrong by {error:.2g} of the largest element")
                engine.rest()
                ready[label] = engine
                results[label] = {"load_ms": reply["load_ms"], "error_of_largest": error, "turns_ms": []}
            except EngineError as reason:
                results[label] = {"error": str(reason)}
        for _ in range(self.rounds):
            for label, engine in list(ready.items()):
                try:
                    for _ in range(RETRIES):
                        times, disturbed = engine.turn(self.seconds)
                        rested = engine.rest()
                        if not disturbed:
                            break
                except EngineError as reason:
                    results[label] = {"error": str(reason)}
                    del ready[label]
                    continue
                result = results[label]
                result["turns_ms"].append(statistics.median(times))
                result["min_ms"] = min(min(times), result.get("min_ms", times[0]))
                result["disturbed_turns"] = result.get("disturbed_turns", 0) + disturbed
                result["restless_turns"] = result.get("restless_turns", 0) + (not rested)
        return results

    def close(self):
        for engine in self.engines.values():
            engine.close()


def busy_seconds():
    """CPU time of everything that ran on this machine, and what a hypervisor took."""
    fields = pathlib.Path("/proc/stat").read_text().split(maxsplit=9)
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def difference(output, reference):
    """The largest difference, as a share of the reference's largest element; infinite for another shape or NaN."""
    if output.shape != reference.shape:
        return float("inf")
    error = float(numpy.abs(output.astype(numpy.float64) - reference).max())
    return error / float(numpy.abs(reference).max()) if error == error else float("inf")


def median_ms(result):
    """The median over turns of the turn's median."""
    return statistics.median(result["turns_ms"])


def speedup(of, over):
    """How many times as fast `of` is as `over`: median over rounds, and quartiles."""
    ratios = sorted(b / a for a, b in zip(of["turns_ms"], over["turns_ms"], strict=True))
    low, middle, high = (ratios[round(q * (len(ratios) - 1))] for q in (0.25, 0.5, 0.75))
    return middle, (low, high)


def succeeded(results, labels):
    """The labels among `labels` that have times."""
    return [label for label in labels if "turns_ms" in results.get(label, {})]


def machine():
    """The CPU: its model, family and number, and how many there are."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    fields = dict(re.findall(r"^([^\t:]+)\t*: (.*)$", text, re.MULTILINE))
    family, model = fields.get("cpu family", "?"), fields.get("model", "?")
    name = fields.get("model name", "unknown CPU")
    return f"{name} (family {family}, model {model}), {os.cpu_count()} CPUs"


def today():
    return datetime.date.today().isoformat()


def circumstances(runner):
    """What a measurement depends on beside the code: machine, threads, versions."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=environment.HERE, capture_output=True, text=True, check=False)
    versions = runner.versions | {"poda": f"{runner.versions.get('poda')} ({done.stdout.strip() or 'no commit'})"}
    return {"machine": machine(), "threads": runner.threads, "versions": versions, "date": today()}


def describe(measured):
    """One line for below a table."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(measured["versions"].items()))
    return f"{measured['machine']}; {measured['threads']} threads; {versions}; {measured['date']}"
