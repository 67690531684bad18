#!/usr/bin/env python3
"""What the server adds to a run: `poda bench` of a model, and one client after another request over loopback, turn by turn.

    overhead.py MODEL... [--poda target/release/poda] [--threads 1] [--shape input_ids=1x128]

For each model and turn: p50 of a run by itself; p50 of a request with tensors as bytes and as JSON, and what that is more; what the
server says that a run within it takes; and the runs a second of four clients without batches, relative to runs by themselves.
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

from server import Server, load


def direct(args, model):
    shapes = [part for shape in args.shape for part in ["--shape", shape]]
    done = subprocess.run([args.poda, "bench", model, "--json", "--seconds", str(args.seconds), "--threads", str(args.threads), *shapes],
                          stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)["models"][0]["latency_ms"]["p50"] * 1e3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--poda", default="target/release/poda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", action="append", default=[])
    args = parser.parse_args()
    shapes = [part for shape in args.shape for part in ["--shape", shape]]
    columns = ["run µs", "bytes µs", "more", "JSON µs", "more", "run within µs", "of runs/s"]
    print(f"{'':24}" + "".join(f"{name:>14}" for name in columns))
    for model in args.models:
        rows = []
        for _ in range(args.rounds):
            run = direct(args, model)
            with Server(args.poda, model, "--threads", str(args.threads), "--max-batch", "1") as server:
                seconds = ["--duration", str(args.seconds)]
                plain = load(args.poda, server.url, *seconds, *shapes)["latency_ms"]["p50"] * 1e3
                spent = server.statistics()["inference_stats"]["compute_infer"]
                text = load(args.poda, server.url, *seconds, *shapes, "--json-data")["latency_ms"]["p50"] * 1e3
                full = load(args.poda, server.url, *seconds, *shapes, "--clients", "4")["requests_per_second"]
            within = spent["ns"] / spent["count"] / 1e3
            rows.append([run, plain, plain - run, text, text - run, within, full * run / 1e6])
        medians = [statistics.median(column) for column in zip(*rows)]
        print(f"{Path(model).stem:24}" + "".join(f"{value:14.1f}" for value in medians[:-1]) + f"{medians[-1]:14.2f}", flush=True)


main()
