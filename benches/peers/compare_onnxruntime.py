#!/usr/bin/env python3
"""Times Poda beside ONNX Runtime on the same ONNX models, taking turns (A B A B ...), as a ratio in one run.

    cargo build --release
    target/test-venv/bin/python benches/peers/compare_onnxruntime.py target/test-models/minilm.onnx \\
        --shape input_ids=1x128 --shape attention_mask=1x128 --shape token_type_ids=1x128

Each turn is `poda bench` in a process of its own, then ONNX Runtime in this one, each warm before it is timed. A model
written MODEL:PRUNED compares ONNX Runtime on MODEL with Poda on PRUNED. Needs numpy and onnxruntime.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import time

import numpy
import onnxruntime

TYPES = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64, "tensor(int32)": numpy.int32, "tensor(bool)": bool}


def feeds(session, shapes, batch):
    """Random inputs: floats uniform in -1..1, integers below 100, ones for masks and token types of zero."""
    random = numpy.random.default_rng(0)
    made = {}
    for given in session.get_inputs():
        shape = shapes.get(given.name) or [size if isinstance(size, int) else batch for size in given.shape]
        dtype = TYPES[given.type]
        if dtype == numpy.float32:
            made[given.name] = random.uniform(-1, 1, shape).astype(dtype)
        elif "mask" in given.name:
            made[given.name] = numpy.ones(shape, dtype)
        elif "type" in given.name:
            made[given.name] = numpy.zeros(shape, dtype)
        else:
            made[given.name] = random.integers(0, 100, shape).astype(dtype)
    return made


def time_onnxruntime(session, inputs, seconds):
    """Median milliseconds of a run."""
    for _ in range(3):
        session.run(None, inputs)
    times = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times) < 5:
        before = time.perf_counter()
        session.run(None, inputs)
        times.append((time.perf_counter() - before) * 1e3)
    return statistics.median(times)


def time_poda(poda, model, arguments, seconds):
    """Median milliseconds of a run."""
    command = [poda, "bench", model, "--json", "--seconds", str(seconds), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip())
    return json.loads(done.stdout)["models"][0]["latency_ms"]["p50"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL[:PRUNED]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=1x128")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each engine in each round")
    root = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("--poda", default=str(root / "target/release/poda"))
    args = parser.parse_args()
    shapes = dict(item.split("=") for item in args.shape)
    shapes = {name: [int(size) for size in dims.split("x")] for name, dims in shapes.items()}

    print(f"onnxruntime {onnxruntime.__version__}, {args.threads} threads, batch {args.batch}; medians in ms")
    print(f"{'model':40} {'onnxruntime':>12} {'poda':>9} {'ratio':>6}  quartiles")
    for pair in args.models:
        model, _, pruned = pair.partition(":")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        # Its threads spin within a run, for speed, but not on after it, when it is not their turn.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        inputs = feeds(session, shapes, args.batch)
        names = [given.name for given in session.get_inputs()]
        given = [f"--shape={name}={'x'.join(map(str, inputs[name].shape))}" for name in names]
        arguments = [f"--threads={args.threads}", f"--batch={args.batch}", *given]
        theirs, ours = [], []
        for _ in range(args.rounds):
            theirs.append(time_onnxruntime(session, inputs, args.seconds))
            ours.append(time_poda(args.poda, pruned or model, arguments, args.seconds))
        ratios = sorted(a / b for a, b in zip(theirs, ours))
        low, middle, high = (ratios[round(q * (len(ratios) - 1))] for q in (0.25, 0.5, 0.75))
        name = pathlib.Path(pruned or model).name
        print(f"{name:40} {statistics.median(theirs):12.3f} {statistics.median(ours):9.3f} {middle:5.2f}x  {low:.2f}-{high:.2f}")


if __name__ == "__main__":
    main()
