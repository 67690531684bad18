#!/usr/bin/env python3
"""What Python adds to a run, small networks beside ONNX Runtime in one process, and what a process with a model holds.

    overhead.py [--artifact minilm90.safetensors] [--rounds 15]

Times are medians of rounds in which all take turns, one thread each, with the quartiles of the rounds; of a round, the median of its
calls. Memory is the kernel's own count (VmHWM, the most so far) of fresh processes. Needs poda, numpy,
onnx and onnxruntime.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
import poda
from onnx import TensorProto, helper, numpy_helper

LENET = [784, 300, 100, 10]


def mlp(sizes):
    """The bytes of a multilayer perceptron with ReLU, of He's random weights."""
    random, nodes, tensors, name = np.random.default_rng(0), [], [], "x"
    for at, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        last = at == len(sizes) - 2
        weight = random.standard_normal((inputs, outputs), np.float32) * np.float32(np.sqrt(2 / inputs))
        tensors += [numpy_helper.from_array(weight, f"w{at}"), numpy_helper.from_array(np.zeros(outputs, np.float32), f"b{at}")]
        nodes.append(helper.make_node("Gemm", [name, f"w{at}", f"b{at}"], ["y" if last else f"h{at}"]))
        name = f"h{at}"
        if not last:
            nodes.append(helper.make_node("Relu", [name], [f"a{at}"]))
            name = f"a{at}"
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])] for name, size in [("x", sizes[0]), ("y", sizes[-1])]]
    graph = helper.make_graph(nodes, "mlp", *ports, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def micros(call, calls):
    """Median microseconds of a call, each timed by itself: a neighbour that takes the CPU away spoils few of them."""
    clock, times = time.perf_counter_ns, []
    for _ in range(calls):
        begun = clock()
        call()
        times.append(clock() - begun)
    return statistics.median(times) / 1e3


def race(contestants, rounds, calls):
    """Medians and quartiles, µs, of contestants that take turns; a contestant is a call, or gives its own figure."""
    times = {name: [] for name in contestants}
    for call in contestants.values():
        call(calls)
    for _ in range(rounds):
        for name, call in contestants.items():
            times[name].append(call(calls))
    return {name: statistics.quantiles(list, n=4) for name, list in times.items()}


def contest(name, content, sparsity, rounds, calls):
    """One network in Python and in Rust, dense and pruned, beside ONNX Runtime in the same process."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    theirs = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    dense = poda.Model(content, threads=1)
    session = poda.InferenceSession(content, options)
    size = dense.inputs[0].shape[-1]
    x = np.random.default_rng(1).standard_normal((1, size), np.float32)
    feeds = {"x": x}
    np.testing.assert_allclose(dense(x), theirs.run(None, feeds)[0], rtol=1e-4, atol=1e-4)

    def rust(model):
        # (Its own loop, timed by itself; what Python adds is the difference.)
        return lambda _: poda.bench(model, feeds=feeds, seconds=0.05)["models"][0]["latency_ms"]["p50"] * 1e3

    def python(call):
        return lambda calls: micros(call, calls)

    contestants = {
        "ONNX Runtime, session.run": python(lambda: theirs.run(None, feeds)),
        "poda, session.run": python(lambda: session.run(None, feeds)),
        "poda, model(x)": python(lambda: dense(x)),
        "poda, Rust's run": rust(dense),
    }
    if sparsity:
        pruned = poda.prune(content, sparsity=sparsity, threads=1, check=False)
        contestants[f"poda, {sparsity:.0%} zeros, model(x)"] = python(lambda: pruned(x))
        contestants[f"poda, {sparsity:.0%} zeros, Rust's run"] = rust(pruned)
    gc.disable()
    print(f"{name}, batch 1, 1 thread")
    for who, (low, median, high) in race(contestants, rounds, calls).items():
        print(f"  {who:36} {median:8.2f} µs  ({low:.2f}–{high:.2f})")
    gc.enable()


PEAK = """
import sys
def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
said = [peak()]
import numpy
said.append(peak())
import poda
said.append(peak())
model = poda.Model(sys.argv[1], threads=1)
said.append(peak())
for length in (16, 128):
    feeds = {port.name: numpy.ones((1, length), port.dtype) for port in model.inputs}
    model.run(feeds)
    said.append(peak())
print(*said)
"""


def memory(artifact):
    """The most that a process held at each step, MiB above the interpreter."""
    with tempfile.TemporaryDirectory() as cache:
        # The second finds the kernels chosen, as every process on a machine does but the first.
        for which in ("first", "next"):
            environment = {**os.environ, "XDG_CACHE_HOME": cache}
            said = subprocess.run([sys.executable, "-c", PEAK, artifact], env=environment, check=True, capture_output=True, text=True)
            bare, numpy, imported, loaded, short, long = map(float, said.stdout.split())
            steps = {"import numpy": numpy, "import poda": imported, "load": loaded, "16 tokens": short, "128 tokens": long}
            print(f"{which} process, most MiB above the interpreter's {bare:.1f}: " + ", ".join(f"{k} {v - bare:.1f}" for k, v in steps.items()))
    print(f"file {os.path.getsize(artifact) / 2**20:.1f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", help="MiniLM with 90 %% zeros: poda prune minilm.onnx -o minilm90.safetensors --sparsity 0.9")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    print(f"poda {poda.__version__}, onnxruntime {onnxruntime.__version__}, Python {sys.version.split()[0]}")
    contest("8-4 product", mlp([8, 4]), None, args.rounds, 5000)
    contest("LeNet-300-100", mlp(LENET), 0.9, args.rounds, 2000)
    if args.artifact:
        memory(args.artifact)


if __name__ == "__main__":
    main()
