"""DeepSparse, the last version that still imports. Its licence allows evaluation only."""
# /// script
# requires-python = ">=3.8,<3.12"
# dependencies = ["deepsparse==1.8.0", "numpy==1.26.4", "onnx==1.14.1"]
# ///

import os

os.environ["NM_DISABLE_ANALYTICS"] = "True"
import deepsparse

VERSION = deepsparse.__version__


def load(model, inputs, threads):
    values = list(inputs.values())
    engine = deepsparse.Engine(model, batch_size=values[0].shape[0], num_cores=threads)
    return lambda: engine.run(values, val_inp=False)[0]
