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
import tempfile
import time

import numpy

import environment

TOLERANCE = 1e-3  # of the largest element of the reference
RETRIES = 5  # of a turn in which other processes used the CPU
# A contestant this many times slower than the fastest has had enough after a few turns.
HOPELESS, ENOUGH = 5, 3


class EngineError(Exception):
    """An engine could not do what it was asked for."""


class Engine:
    """The process of one engine; see `python_worker.py` for what is said."""

    def __init__(self, name, threads, cache):
        command = [str(word) for word in environment.command(name)]
        self.log = environment.TARGET / "logs" / f"{name}.txt"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=dict(os.environ, XDG_CACHE_HOME=cache),
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

    def load(self, entry, output):
        """Loads what `entry` says; gives the time it took and how far the output is from the reference."""
        inputs = {name: str(path) for name, path in entry.inputs.items()}
        load_ms = self.ask(load=str(entry.model), inputs=inputs, output=str(output))["load_ms"]
        error = difference(numpy.load(output), entry.reference)
        if not error <= entry.tolerance:
            raise EngineError(f"its output is wrong by {error:.2g} of the largest element")
        self.rest()
        return {"load_ms": load_ms, "error_of_largest": error, "turns_ms": [], "min_ms": float("inf")}

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
    reference: numpy.ndarray
    tolerance: float = TOLERANCE


class Race:
    """A process for each contestant, started when it is first needed; it serves all races.

    What engines learn about this machine (Poda times its kernels) lasts as long as the race.
    """

    def __init__(self, args):
        self.threads, self.seconds, self.rounds = args.threads, args.seconds, args.rounds
        self.engines, self.unavailable, self.versions = {}, {}, {}

    def __enter__(self):
        environment.TARGET.mkdir(parents=True, exist_ok=True)
        self.cache = tempfile.TemporaryDirectory(dir=environment.TARGET)
        return self

    def __exit__(self, *_):
        for engine in self.engines.values():
            engine.close()
        self.cache.cleanup()

    def _engine(self, label, name):
        if name in self.unavailable:
            raise EngineError(self.unavailable[name])
        engine = self.engines.get(label)
        if engine is None or engine.process.poll() is not None:
            try:
                engine = self.engines[label] = Engine(name, self.threads, self.cache.name)
            except (environment.Unavailable, EngineError) as reason:
                self.unavailable[name] = str(reason)
                raise EngineError(str(reason)) from None
            self.versions[name] = engine.version
        return engine

    def run(self, entries, folder):
        """Times contestants, `{label: Entry}`, in turns; gives `{label: times or {"error": reason}}`.

        The first, which others are compared with, and those that are not hopelessly slow have all turns.
        """
        ready, results = {}, {}
        for label, entry in entries.items():
            try:
                engine = self._engine(label, entry.engine)
                results[label] = engine.load(entry, folder / "output.npy")
                ready[label] = engine
            except EngineError as reason:
                results[label] = {"error": str(reason)}
        for played in range(self.rounds):
            if played == ENOUGH:
                fastest = min((median_ms(results[label]) for label in ready), default=0)
                slow = [label for label in ready if median_ms(results[label]) > HOPELESS * fastest]
                for label in set(slow) - {next(iter(entries))}:
                    del ready[label]
            for label, engine in list(ready.items()):
                try:
                    self._turn(engine, results[label])
                except EngineError as reason:
                    results[label] = {"error": str(reason)}
                    del ready[label]
        return results

    def _turn(self, engine, result):
        for _ in range(RETRIES):
            times, disturbed = engine.turn(self.seconds)
            rested = engine.rest()
            if not disturbed:
                break
        result["turns_ms"].append(statistics.median(times))
        result["min_ms"] = min(result["min_ms"], *times)
        result["disturbed_turns"] = result.get("disturbed_turns", 0) + disturbed
        result["restless_turns"] = result.get("restless_turns", 0) + (not rested)

    def circumstances(self):
        """What a measurement depends on beside the code: machine, threads, versions."""
        command = ["git", "describe", "--always", "--dirty"]
        done = subprocess.run(command, cwd=environment.HERE, capture_output=True, text=True, check=False)
        versions = dict(self.versions)
        if "poda" in versions:
            versions["poda"] += f" ({done.stdout.strip() or 'no commit'})"
        return {"machine": machine(), "threads": self.threads, "versions": versions, "date": today()}


def add_arguments(parser, name):
    """Adds the options that all races have; results go to a file of this name."""
    parser.add_argument("--engines", help="only these, such as onnxruntime,mkl,poda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=0.02, help="of one turn, one run at least")
    parser.add_argument("--json", type=pathlib.Path, default=environment.TARGET / name, metavar="FILE")


def chosen(contestants, args):
    """The contestants whose engines were asked for."""
    engines = args.engines.split(",") if args.engines else [engine for _, engine, _ in contestants]
    unknown = set(engines) - {engine for _, engine, _ in contestants}
    if unknown:
        raise SystemExit(f"no engine is called {', '.join(sorted(unknown))}")
    return [one for one in contestants if one[1] in engines]


def prune_smallest(weight, sparsity):
    """A trained weight with its smallest elements set to zero."""
    magnitude = numpy.abs(weight)
    return weight * (magnitude > numpy.quantile(magnitude, sparsity))


# --- what times say


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


def ran(results, label):
    """Whether a contestant has times."""
    return "turns_ms" in results.get(label, {})


def median_ms(result):
    """The median over turns of the turn's median."""
    return statistics.median(result["turns_ms"])


def speedup(of, over):
    """How many times as fast `of` is as `over`: quartiles over rounds, the median in the middle."""
    # One of them may have had fewer turns.
    ratios = sorted(b / a for a, b in zip(of["turns_ms"], over["turns_ms"], strict=False))
    return [ratios[round(q * (len(ratios) - 1))] for q in (0.25, 0.5, 0.75)]


def number(value):
    """A ratio, for people."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def print_times(heading, results):
    """All of one race: median, quartiles over turns, and minimum."""
    print(heading)
    for label, result in results.items():
        if ran(results, label):
            low, _, high = statistics.quantiles(result["turns_ms"], n=4)
            disturbed = result["disturbed_turns"] + result["restless_turns"]
            note = f"  {disturbed} turns disturbed" if disturbed else ""
            times = f"{median_ms(result):9.4f} ({low:.4f}–{high:.4f})  min {result['min_ms']:.4f}"
            print(f"  {label:20} {times} ms  off by {result['error_of_largest']:.0e}{note}")
        else:
            print(f"  {label:20} failed: {result['error']}")


def print_failures(measured):
    """Once, why each contestant failed."""
    failures = {}
    for one in measured:
        for label, result in one["results"].items():
            if "error" in result:
                failures.setdefault((label, result["error"]), []).append(one)
    for (label, reason), where in sorted(failures.items(), key=lambda item: item[0]):
        print(f"\n{label} failed in {len(where)} of {len(measured)}: {reason}")


def machine():
    """The CPU: its model, family and number, and how many there are."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    fields = dict(re.findall(r"^([^\t:]+)\t*: (.*)$", text, re.MULTILINE))
    family, model = fields.get("cpu family", "?"), fields.get("model", "?")
    name = fields.get("model name", "unknown CPU")
    return f"{name} (family {family}, model {model}), {os.cpu_count()} CPUs"


def today():
    """The date, as ISO 8601 writes it."""
    return datetime.date.today().isoformat()


def describe(measured):
    """One line for below a table."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(measured["versions"].items()))
    return f"\n{measured['machine']}; {measured['threads']} threads; {versions}; {measured['date']}"
