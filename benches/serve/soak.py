#!/usr/bin/env python3
"""What must hold of a server for longer than a test may take. Each prints what it measured, and fails when that does not hold.

    soak.py overload MODEL [--poda target/release/poda]     10 times the greatest rate for a minute
    soak.py reloads MODEL                                    1,024 reloads under 32 clients
    soak.py million MODEL                                    a million small requests
    soak.py restart MODEL                                    kill -9, and ready again
    soak.py shared MODEL                                     what a second process takes

What is none of its own options goes to `poda serve`. Needs `cargo build --release`, and nothing but Python's own library.
"""

import argparse
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

from server import Server, load


def check(what, holds):
    print(("holds: " if holds else "DOES NOT HOLD: ") + what)
    return holds


def overload(args):
    with Server(args.poda, args.model, *args.serve) as server:
        alone = load(args.poda, server.url, "--clients", "1", "--duration", "5", "--check")
        closed = load(args.poda, server.url, "--clients", "32", "--duration", "5", "--check")
        rate = 10 * closed["requests_per_second"]
        memory, seen, done = [], [], threading.Event()

        def watch():
            while not done.wait(1):
                memory.append(server.memory())
                seen.append(server.metric("poda_overloaded"))

        watcher = threading.Thread(target=watch)
        watcher.start()
        report = load(args.poda, server.url, "--rate", str(rate), "--duration", str(args.seconds), "--check", "--connections", "512")
        done.set()
        watcher.join()
    before, after = max(memory[2 : max(3, len(memory) // 4)]), memory[-1]
    # The generator shares the CPUs, and may be late itself; what the server is charged for is what it was sent.
    due, answered, errors = report["latency_ms"], report["since_sent_ms"], report["errors"]
    # Of a small model ten times what can be run is more than the generator can send beside it.
    unsent = errors.pop("not sent", 0)
    asked = (report["answered"] + report["failed"] - unsent) / report["seconds"]
    print(f"alone p50 {alone['latency_ms']['p50']:.2f} ms, p99 {alone['latency_ms']['p99']:.2f} ms; 32 in a closed loop {closed['requests_per_second']:.0f}/s; "
          f"of {rate:.0f}/s sent {asked:.0f}/s, answered {report['requests_per_second']:.0f}/s, p50 {answered['p50']:.2f} ms, p99 {answered['p99']:.2f} ms "
          f"({due['p99']:.2f} ms since due), errors {errors}, memory {before:.1f} to {after:.1f} MiB, overloaded {sum(seen):.0f} of {len(seen)} s")
    return all([
        check("a closed loop is refused nothing", not closed["errors"]),
        check("no wrong answer", "wrong answer" not in errors),
        check("nothing accepted is lost: refusals are 429", set(errors) <= {"429"}),
        check(f"p99 of the accepted is within 3 times that alone: {answered['p99'] / alone['latency_ms']['p99']:.2f}", answered["p99"] <= 3 * alone["latency_ms"]["p99"]),
        check("memory is flat", after <= before * 1.05 + 1),
        check(f"as much is answered as at full load: {report['requests_per_second'] / closed['requests_per_second']:.2f}", report["requests_per_second"] >= 0.5 * closed["requests_per_second"]),
    ])


def shared(args):
    with Server(args.poda, args.model, *args.serve) as one:
        load(args.poda, one.url, "--duration", "1")
        alone = [one.memory(), one.pss()]
        with Server(args.poda, args.model, *args.serve) as other:
            load(args.poda, other.url, "--duration", "1")
            both = [(server.memory(), server.pss()) for server in (one, other)]
    size = Path(args.model).stat().st_size / 2**20
    print(f"file {size:.1f} MiB; one process: resident {alone[0]:.1f}, proportional {alone[1]:.1f} MiB; "
          + "; ".join(f"of two: resident {rss:.1f}, proportional {pss:.1f} MiB" for rss, pss in both))
    return check("a second process takes less than its resident memory", both[1][1] < 0.9 * both[1][0])


def reloads(args):
    with tempfile.TemporaryDirectory() as folder:
        model = Path(args.model)
        for version in ["1", "2"]:
            target = Path(folder) / "m" / version / ("model" + model.suffix)
            target.parent.mkdir(parents=True)
            shutil.copy2(model, target)
        with Server(args.poda, "--repository", folder, "--model-control") as server:
            for _ in range(32):
                server.post("/v2/repository/models/m/load")
            report, done = {}, threading.Event()

            def clients():
                while not done.is_set():
                    one = load(args.poda, server.url, "--clients", "32", "--duration", "10", "--warmup", "0", "--check")
                    report["answered"] = report.get("answered", 0) + one["answered"]
                    report["errors"] = {**report.get("errors", {}), **one["errors"]}

            thread = threading.Thread(target=clients)
            thread.start()
            time.sleep(2)
            before, files = server.memory(), server.descriptors()
            for _ in range(args.reloads):
                server.post("/v2/repository/models/m/load")
            after = server.memory()
            done.set()
            thread.join()
            left = server.descriptors()
    print(f"{args.reloads} reloads, {report['answered']} answers, errors {report['errors']}, memory {before:.0f} to {after:.0f} MiB")
    return all([
        check("no client saw an error", not report["errors"]),
        check("memory is flat", after <= before * 1.1 + 8),
        check("no file stays open", left <= files + 2),
    ])


def million(args):
    with Server(args.poda, args.model, *args.serve) as server:
        # What comes once (connections, histograms, heaps of threads) has come after a quarter of a minute.
        for _ in range(2):
            load(args.poda, server.url, "--clients", "8", "--duration", "15")
        before, answered = server.memory(), 0
        while answered < args.requests:
            answered += load(args.poda, server.url, "--clients", "8", "--duration", "20", "--warmup", "0")["answered"]
        after = server.memory()
    print(f"{answered} requests, memory {before:.1f} to {after:.1f} MiB")
    return check("memory is flat to 5 %", after <= before * 1.05)


def restart(args):
    with Server(args.poda, args.model, *args.serve) as server:
        print(f"first start: ready after {server.ready_seconds:.2f} s")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with Server(args.poda, args.model, *args.serve) as server:
        print(f"after kill -9: ready after {server.ready_seconds:.2f} s")
        return check("ready again within a second", server.ready_seconds < 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["overload", "reloads", "million", "restart", "shared"])
    parser.add_argument("model")
    parser.add_argument("--poda", default="target/release/poda")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--reloads", type=int, default=1024)
    parser.add_argument("--requests", type=int, default=1_000_000)
    args, args.serve = parser.parse_known_args()
    raise SystemExit(0 if globals()[args.what](args) else 1)


main()
