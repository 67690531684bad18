"""ONNX Runtime with its default options: its threads spin while it runs.

Inputs and output are bound once, so that Python costs it least.
"""
# /// script
# requires-python = ">=3.10"
# dependencies = ["onnxruntime==1.32.0", "numpy==2.4.6"]
# ///

import numpy
import onnxruntime

VERSION = onnxruntime.__version__


def load(model, inputs, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    output = session.get_outputs()[0].name
    first = session.run([output], inputs)[0]
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_cpu_input(name, value)
    result = onnxruntime.OrtValue.ortvalue_from_numpy(numpy.empty_like(first))
    binding.bind_ortvalue_output(output, result)

    def run():
        session.run_with_iobinding(binding)
        return result

    return run
