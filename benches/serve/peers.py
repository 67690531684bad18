#!/usr/bin/env python3
"""Poda beside ONNX Runtime behind FastAPI and uvicorn: the same model, the same client (`poda load`), turn by turn.

    pip install -r benches/serve/requirements.txt
    benches/serve/peers.py dense.onnx pruned.safetensors --limit 50ms --shape input_ids=1x128 ...

Prints requests/s at p99 under the limit, p50 of one client, resident memory, and seconds from start to ready.
"""

import argparse
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from server import Server, load


class FastApi:
    def __init__(self, model, threads, port=18090):
        environment = {**os.environ, "MODEL": model, "THREADS": str(threads)}
        command = [sys.executable, "-m", "uvicorn", "fastapi_onnxruntime:app", "--port", str(port), "--log-level", "error"]
        start = time.monotonic()
        self.process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parent)
        self.url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(self.url + "/v1/models", timeout=1)
                break
            except OSError:
                time.sleep(0.05)
        self.ready_seconds = time.monotonic() - start

    __enter__, __exit__, memory = Server.__enter__, lambda self, *_: (self.process.terminate(), self.process.wait(30)), Server.memory


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dense", help="ONNX file, for both")
    parser.add_argument("pruned", nargs="*", help="for Poda alone")
    parser.add_argument("--poda", default="target/release/poda")
    parser.add_argument("--limit", default="50ms")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", default="5")
    parser.add_argument("--rounds", type=int, default=3)
    args, others = parser.parse_known_args()
    dense = str(Path(args.dense).resolve())
    contestants = [("ONNX Runtime, FastAPI", lambda: FastApi(dense, args.threads))]
    for model in [dense, *args.pruned]:
        name = f"Poda, {Path(model).name}"
        contestants.append((name, lambda model=model: Server(args.poda, model, "--threads", str(args.threads))))
    print(f"{'':32} {'req/s':>8} {'p50 ms':>8} {'MiB':>8} {'ready s':>8}")
    for _ in range(args.rounds):
        for name, start in contestants:
            with start() as server:
                one = load(args.poda, server.url, "--clients", "1", "--duration", args.seconds, *others)
                try:
                    found = load(args.poda, server.url, "--find-rate", args.limit, "--duration", args.seconds, *others)
                    rate = found["greatest_rate"]
                except subprocess.CalledProcessError:
                    rate = 0.0
                print(f"{name:32} {rate:8.1f} {one['latency_ms']['p50']:8.2f} {server.memory():8.1f} {server.ready_seconds:8.2f}", flush=True)


main()
