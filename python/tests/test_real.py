"""Real models: memory of a process, and states that are kept between calls."""

import json
import os
import subprocess
import sys

import numpy as np
import poda

LOADED = """
import json, sys
import numpy
def resident(of):
    status = open("/proc/self/status").read()
    return int(status.split(of + ":")[1].split()[0])
before = resident("VmHWM")
import poda
model = poda.Model(sys.argv[1], threads=1, tune=False)
ids = numpy.ones((1, 16), numpy.int64)
model.run({port.name: ids for port in model.inputs})
print(json.dumps([before, resident("VmHWM")]))
"""


def test_a_pruned_encoder_takes_little_memory(real, tmp_path):
    """Less than 60 MB above the interpreter with NumPy, at the most."""
    out = tmp_path / "minilm.safetensors"
    poda.prune(real("minilm"), out, sparsity=0.9, check=False)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, "-c", LOADED, out], capture_output=True, env=environment, check=True, cwd=tmp_path)
    before, after = json.loads(said.stdout)
    assert after - before < 60_000, f"{before} KiB, then {after}"


def test_eight_models_in_one_process(real):
    path = real("mnist_cnn")
    models = [poda.Model(path, threads=2) for _ in range(8)]
    x = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    first = models[0](x)
    assert all((model(x) == first).all() for model in models)
