#!/usr/bin/env python3
"""Poda beside ONNX Runtime behind FastAPI and uvicorn, and behind MLServer: the same model, the same client (`poda load`), turn by turn.

    python -m venv fastapi && fastapi/bin/pip install -r benches/serve/requirements.txt
    python -m venv mlserver && mlserver/bin/pip install mlserver onnxruntime
    fastapi/bin/python benches/serve/peers.py dense.onnx pruned.safetensors --mlserver mlserver/bin/python --limit 100ms

Prints requests/s at p99 under the limit, p50 of one client, resident memory, and seconds from start to ready. Tensors are sent and
asked for as bytes; MLServer takes JSON alone, which is why Poda is asked in JSON, too.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from server import Server, load


class Peer:
    """A server of others, with what `Server` has of ours."""

    def __init__(self, command, model, threads, ready, port):
        environment = {**os.environ, "MODEL": model, "THREADS": str(threads)}
        start = time.monotonic()
        self.process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{port}"
        while time.monotonic() - start < 60:
            try:
                urllib.request.urlopen(self.url + ready, timeout=1)
                break
            except OSError:
                time.sleep(0.02)
        self.ready_seconds = time.monotonic() - start

    __enter__, memory, descriptors = Server.__enter__, Server.memory, Server.descriptors

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)


def fastapi(model, threads, port=18090):
    command = [sys.executable, "-m", "uvicorn", "fastapi_onnxruntime:app", "--port", str(port), "--log-level", "error"]
    return Peer(command, model, threads, "/v1/models", port)


def mlserver(python, model, threads, folder, port=18092):
    command = [python, str(Path(__file__).parent / "mlserver_onnxruntime.py"), folder, str(port)]
    return Peer(command, model, threads, f"/v2/models/{Path(model).stem}/ready", port)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dense", help="ONNX file, for all")
    parser.add_argument("pruned", nargs="*", help="for Poda alone")
    parser.add_argument("--poda", default="target/release/poda")
    parser.add_argument("--mlserver", help="a Python that has mlserver and onnxruntime")
    parser.add_argument("--limit", default="50ms")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", default="3")
    parser.add_argument("--rounds", type=int, default=3)
    args, others = parser.parse_known_args()
    dense = str(Path(args.dense).resolve())
    folder = tempfile.TemporaryDirectory()
    ours = [(f"Poda, {Path(model).name}", lambda model=model: Server(args.poda, model, "--threads", str(args.threads))) for model in [dense, *args.pruned]]
    contestants = [(name, "bytes", start) for name, start in [("ONNX Runtime, FastAPI", lambda: fastapi(dense, args.threads)), *ours]]
    if args.mlserver:
        theirs = ("ONNX Runtime, MLServer", lambda: mlserver(args.mlserver, dense, args.threads, folder.name))
        contestants += [(name, "JSON", start) for name, start in [theirs, *ours]]
    measured = {(name, form): [] for name, form, _ in contestants}
    for _ in range(args.rounds):
        for name, form, start in contestants:
            with start() as server:
                others_own = [*others, "--model", Path(dense).stem] if isinstance(server, Peer) else others
                options = [*others_own, "--duration", args.seconds, *(["--json-data"] if form == "JSON" else [])]
                one = load(args.poda, server.url, "--clients", "1", *options)
                try:
                    rate = load(args.poda, server.url, "--find-rate", args.limit, *options)["greatest_rate"]
                except subprocess.CalledProcessError:
                    rate = 0.0
                row = [rate, one["latency_ms"]["p50"], server.memory(), server.ready_seconds]
                measured[name, form].append(row)
                print(f"{name:32} {form:6}" + "".join(f" {value:9.2f}" for value in row), file=sys.stderr, flush=True)
    print(f"{'medians':32} {'':6} {'req/s':>9} {'p50 ms':>9} {'MiB':>9} {'ready s':>9}")
    for (name, form), rows in measured.items():
        print(f"{name:32} {form:6}" + "".join(f" {statistics.median(column):9.2f}" for column in zip(*rows)))


main()
