"""OpenVINO, in f32: by default it takes bf16 where the CPU has it."""
# /// script
# requires-python = ">=3.10"
# dependencies = ["openvino==2026.4.1", "numpy==2.4.6"]
# ///

import openvino

VERSION = openvino.__version__.split("-")[0]


def load(model, inputs, threads):
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    for name, value in inputs.items():
        request.set_tensor(name, openvino.Tensor(value, shared_memory=True))
    output = request.get_output_tensor(0)

    def run():
        request.infer()
        return output.data

    return run
