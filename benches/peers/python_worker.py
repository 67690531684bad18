"""The process of one Python engine: `python_worker.py NAME THREADS` serves `engines/NAME.py`.

Protocol, a JSON object a line, one reply to each; a reply `{"error": …}` says what went wrong:

    (at start)                                                      {"version": "1.2.3"}
    {"load": MODEL, "inputs": {NAME: FILE.npy}, "output": FILE.npy} {"load_ms": 1.0}   runs once, writes the first output
    {"time": SECONDS}                                               {"times_ms": [1.0, …]}

An engine's file has `VERSION` and `load(model, inputs, threads)`, which gives a function that runs it and returns its output.
"""

import importlib
import json
import os
import sys
import time

import numpy


def aligned(array):
    """A copy that starts at a multiple of 64 bytes, for NumPy's own do not and wide kernels then take up to twice as long."""
    buffer = numpy.empty(array.nbytes + 64, numpy.uint8)
    start = -buffer.ctypes.data % 64
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def timed(run, seconds):
    """Milliseconds of each run, after a quarter of the time to warm up, one run at least."""
    clock = time.perf_counter
    start = clock()
    run()
    while clock() < start + seconds / 4:
        run()
    times = []
    start = clock()
    while not times or clock() < start + seconds:
        before = clock()
        run()
        times.append((clock() - before) * 1e3)
    return times


def main():
    name, threads = sys.argv[1], int(sys.argv[2])
    # What libraries print must not reach the protocol.
    protocol = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    engine = importlib.import_module(f"engines.{name}")
    protocol.write(json.dumps({"version": engine.VERSION}) + "\n")
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "load" in request:
                run = None
                inputs = {name: aligned(numpy.load(path)) for name, path in request["inputs"].items()}
                start = time.perf_counter()
                run = engine.load(request["load"], inputs, threads)
                load_ms = (time.perf_counter() - start) * 1e3
                numpy.save(request["output"], run())
                reply = {"load_ms": load_ms}
            else:
                reply = {"times_ms": timed(run, request["time"])}
        except Exception as error:  # whatever an engine raises is reported
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        protocol.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
