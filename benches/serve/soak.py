#!/usr/bin/env python3
"""What must hold of a server for longer than a test may take. Each prints what it measured, and fails when that does not hold.

    soak.py overload MODEL [--poda target/release/poda]     10 times the greatest rate for a minute
    soak.py reloads MODEL                                    1,024 reloads under 32 clients
    soak.py million MODEL                                    a million small requests
    soak.py restart MODEL                                    kill -9, and ready again

Needs `cargo build --release`, and nothing but Python's own library.
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
    with Server(args.poda, args.model, "--queue", "16") as server:
        alone = load(args.poda, server.url, "--clients", "1", "--duration", "5", "--check")
        full = load(args.poda, server.url, "--clients", "32", "--duration", "5")
        before = server.memory()
        rate = 10 * full["requests_per_second"]
        report = load(args.poda, server.url, "--rate", str(rate), "--duration", str(args.seconds), "--check", "--connections", "512")
        after = server.memory()
    answered, errors = report["latency_ms"], report["errors"]
    print(f"p99 alone {alone['latency_ms']['p99']:.2f} ms; asked {rate:.0f}/s, answered {report['requests_per_second']:.0f}/s, "
          f"p99 {answered['p99']:.2f} ms, errors {errors}, memory {before:.0f} to {after:.0f} MiB")
    return all([
        check("no wrong answer", "wrong answer" not in errors),
        check("nothing accepted is lost: refusals are 429 or of connections", set(errors) <= {"429", "503"}),
        check("memory is flat", after <= before * 1.05 + 8),
        check("as much is answered as at full load", report["requests_per_second"] >= 0.7 * full["requests_per_second"]),
    ])


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
    with Server(args.poda, args.model) as server:
        load(args.poda, server.url, "--clients", "8", "--duration", "10")
        before, answered = server.memory(), 0
        while answered < args.requests:
            answered += load(args.poda, server.url, "--clients", "8", "--duration", "20", "--warmup", "0")["answered"]
        after = server.memory()
    print(f"{answered} requests, memory {before:.1f} to {after:.1f} MiB")
    return check("memory is flat to 5 %", after <= before * 1.05)


def restart(args):
    with Server(args.poda, args.model) as server:
        print(f"first start: ready after {server.ready_seconds:.2f} s")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with Server(args.poda, args.model) as server:
        print(f"after kill -9: ready after {server.ready_seconds:.2f} s")
        return check("ready again within a second", server.ready_seconds < 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["overload", "reloads", "million", "restart"])
    parser.add_argument("model")
    parser.add_argument("--poda", default="target/release/poda")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--reloads", type=int, default=1024)
    parser.add_argument("--requests", type=int, default=1_000_000)
    args = parser.parse_args()
    raise SystemExit(0 if globals()[args.what](args) else 1)


main()
