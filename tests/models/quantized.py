#!/usr/bin/env python3
"""Quantized forms of a model, as ONNX Runtime's quantisers write them, and what ONNX Runtime says of them once they are pruned.

    quantized.py make MODEL.onnx INPUTS.npz FOLDER      writes FOLDER/{static,operators,dynamic,unsigned}.onnx and feeds.npz
    quantized.py check FOLDER NAME PRUNED.onnx OURS.npz --granularity unstructured|channel

INPUTS.npz holds arrays "in:INPUT", OURS.npz Poda's outputs of PRUNED.onnx for them. Checked is that ONNX Runtime takes the
pruned model and gives the same, that its operators are those of FOLDER/NAME.onnx (or, where ONNX Runtime's own operators are read as
several, standard ones), that its weights are integers still, and that what differs of single ones is the zero point.
"""

import argparse
import collections
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime import quantization

onnxruntime.set_default_logger_severity(3)


class Samples(quantization.CalibrationDataReader):
    """The inputs, once."""

    def __init__(self, feeds):
        self.feeds = iter([feeds])

    def get_next(self):
        return next(self.feeds, None)


def make(model, inputs, folder):
    feeds = {name[3:]: array for name, array in np.load(inputs).items() if name.startswith("in:")}
    np.savez(folder / "feeds.npz", **feeds)
    ready = str(folder / "ready.onnx")
    quantization.shape_inference.quant_pre_process(str(model), ready, skip_symbolic_shape=True)
    types = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
    for name, form in (("static", quantization.QuantFormat.QDQ), ("operators", quantization.QuantFormat.QOperator)):
        out = str(folder / f"{name}.onnx")
        quantization.quantize_static(ready, out, Samples(feeds), quant_format=form, per_channel=True, **types)
    quantization.quantize_dynamic(ready, str(folder / "dynamic.onnx"), per_channel=True)
    quantization.quantize_dynamic(ready, str(folder / "unsigned.onnx"), weight_type=quantization.QuantType.QUInt8)


def run(path, feeds):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip((value.name for value in session.get_outputs()), session.run(None, feeds)))


def weights(model):
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: array for name, array in tensors.items() if array.ndim > 1 and array.dtype in (np.int8, np.uint8)}


def complaints(folder, name, pruned, ours, granularity):
    feeds = dict(np.load(folder / "feeds.npz"))
    theirs = run(pruned, feeds)
    for output, array in np.load(ours).items():
        # A rounding that goes the other way is a whole step.
        if np.abs(array - theirs[output]).max() > 0.02 * np.abs(theirs[output]).max():
            yield f"output {output} is off by {np.abs(array - theirs[output]).max()}"
    was, now = onnx.load(folder / f"{name}.onnx"), onnx.load(pruned)
    count = lambda model: collections.Counter(node.op_type for node in model.graph.node)  # noqa: E731
    if name != "operators" and count(was) != count(now):
        yield f"operators {count(now)} instead of {count(was)}"
    zeros = {tensor.name: numpy_helper.to_array(tensor) for tensor in was.graph.initializer}
    before, after = weights(was), weights(now)
    if before.keys() != after.keys():
        yield f"weights {sorted(after)} instead of {sorted(before)}"
    smaller = sum(after[weight].size for weight in after) < sum(before[weight].size for weight in before)
    if smaller != (granularity == "channel"):
        yield "weights are smaller, or are not"
    gone = 0
    for weight in before.keys() & after.keys() if granularity == "unstructured" else ():
        differs = before[weight] != after[weight]
        point = zeros[weight.removesuffix("_quantized") + "_zero_point"].flat[0]
        if (after[weight][differs] != point).any():
            yield f"{weight}: other integers than the zero point"
        gone += differs.sum()
    if granularity == "unstructured" and gone < 0.35 * sum(array.size for array in before.values()):
        yield f"only {gone} integers differ"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    for name in ("model", "inputs", "folder"):
        making.add_argument(name, type=pathlib.Path)
    checking = commands.add_parser("check")
    checking.add_argument("folder", type=pathlib.Path)
    checking.add_argument("name")
    for name in ("pruned", "ours"):
        checking.add_argument(name, type=pathlib.Path)
    checking.add_argument("--granularity", required=True)
    args = parser.parse_args()
    if args.command == "make":
        make(args.model, args.inputs, args.folder)
        return
    found = list(complaints(args.folder, args.name, args.pruned, args.ours, args.granularity))
    for line in found:
        print(line)
    sys.exit(bool(found))


main()
