#!/usr/bin/env python3
"""Times whole trained networks in every engine: benches/peers/run.sh models.

Each network comes dense, dense in int8 (ONNX Runtime's static quantization, made on the same random inputs: its speed counts
here, not its outputs) and with the smallest weights of each product removed, as `poda prune` does. All contestants take turns.
Networks are fetched as for the tests, unless PODA_TEST_MODELS names a folder that has them, or made with random weights
(`networks.py`), of which the first convolution and the linear layer after convolutions are not pruned.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy
import onnx
import onnxruntime
from onnxruntime import quantization
from onnxruntime.quantization import shape_inference

import environment
import networks
import race

IMAGES = {name: [3, 224, 224] for name in ("resnet50", "mobilenet_v1", "mobilenet_v2")}
# Name: the network, and the shapes of its inputs, of which one that is left out has open dimensions of 1.
MODELS = {
    "mnist_cnn": ("mnist_cnn", {"input": [1, 1, 28, 28]}),
    "efficientnet_lite0": ("efficientnet_lite0", {"input": [1, 3, 224, 224]}),
    **{
        f"minilm_b{batch}": ("minilm", {name: [batch, 128] for name in ("input_ids", "attention_mask", "token_type_ids")})
        for batch in (1, 16)
    },
    **{f"{name}_b{batch}": (name, {"x": [batch, *shape]}) for name, shape in IMAGES.items() for batch in (1, 16)},
    "resnet50_tensorflow": ("resnet50_tensorflow", {"x": [1, 224, 224, 3]}),
    "detector": ("detector", {"x": [1, 3, 320, 320]}),
    "bytes_cnn": ("bytes_cnn", {"bytes": [1, 512]}),
    **{f"bert_base_l{length}": ("bert_base", {"input_ids": [1, length]}) for length in (128, 384)},
    "llama_step": ("llama_step", {"x": [1, 1, 2048]}),
    **{f"lenet_300_100_b{batch}": ("lenet_300_100", {"x": [batch, 784]}) for batch in (1, 64)},
    "denoiser": ("denoiser", {"x": [1, 40, 513]}),
    "text_recogniser": ("text_recogniser", {"x": [1, 1, 32, 100]}),
}

# Label, engine, and which form of the network it gets.
CONTESTANTS = [
    ("ONNX Runtime", "onnxruntime", "dense"),
    ("OpenVINO", "openvino", "dense"),
    ("DeepSparse", "deepsparse", "dense"),
    ("rten", "rten", "dense"),
    ("tract", "tract", "dense"),
    ("Poda", "poda", "dense"),
    ("DeepSparse, pruned", "deepsparse", "pruned"),
    ("Poda, pruned", "poda", "pruned"),
    ("ONNX Runtime, int8", "onnxruntime", "int8"),
    ("OpenVINO, int8", "openvino", "int8"),
    ("DeepSparse, int8", "deepsparse", "int8"),
    ("Poda, int8", "poda", "int8"),
]
BASE = "ONNX Runtime"
ROOT = environment.HERE.parents[1]


def find_models(names):
    """Paths of the networks, which are fetched or made when they are not there."""
    made = environment.TARGET / "networks"
    made.mkdir(parents=True, exist_ok=True)
    for name in set(names) & set(networks.NETWORKS):
        if not (made / f"{name}.onnx").exists():
            networks.write(name, made / f"{name}.onnx")
    folder = pathlib.Path(os.environ.get("PODA_TEST_MODELS", ROOT / "target" / "test-models"))
    found = {name: (made if name in networks.NETWORKS else folder) / f"{name}.onnx" for name in names}
    missing = [path.name for path in found.values() if not path.exists()]
    if missing:
        script = ROOT / "tests" / "models" / "fetch_models.py"
        subprocess.run([sys.executable, script, folder, "--only", *missing], check=False)
    return {name: path for name, path in found.items() if path.exists()}


def made_up(name, shape, dtype):
    """A random input: floats in -1..1; token numbers below 1000, bytes, masks of ones, token types of zero."""
    random = numpy.random.default_rng(0)
    if dtype == "tensor(float)":
        return random.uniform(-1, 1, shape).astype(numpy.float32)
    if "mask" in name:
        return numpy.ones(shape, numpy.int64)
    return random.integers(0, 1 if "type" in name else 256 if name == "bytes" else 1000, shape)


def with_fixed_shapes(source, path, shapes):
    """Writes a copy of a network with the given input shapes, which some engines need."""
    model = onnx.load(source)
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes.get(value.name, [dim.dim_value or 1 for dim in dims]), strict=True):
            dim.dim_value = size
    # What is declared of other values may name the old symbols.
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    onnx.save(onnx.shape_inference.infer_shapes(model), path)


def prune(source, path, sparsity, ends):
    """Sets the smallest elements of each weight of a product to zero; those of depthwise convolutions stay.

    Without `ends` the first convolution and the linear layers after convolutions stay, too. Recurrent layers never do.
    """
    model = onnx.load(source)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions, pruned = 0, []
    for node in model.graph.node:
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if node.op_type in ("GRU", "LSTM"):
            pruned += [weights[name] for name in node.input[1:3]]
        if node.op_type not in ("Conv", "Gemm", "MatMul") or groups != 1 or node.input[1] not in weights:
            continue
        convolutions += node.op_type == "Conv"
        if not ends and (convolutions == 1 if node.op_type == "Conv" else convolutions > 0):
            continue
        pruned.append(weights[node.input[1]])
    for tensor in pruned:
        kept = race.prune_smallest(onnx.numpy_helper.to_array(tensor), sparsity)
        tensor.CopyFrom(onnx.numpy_helper.from_array(kept, tensor.name))
    onnx.save(model, path)


class Calibration(quantization.CalibrationDataReader):
    """Hands out the inputs once."""

    def __init__(self, feeds):
        self.batches = iter([feeds])

    def get_next(self):
        return next(self.batches, None)


def quantize(source, path, feeds):
    """Static int8, a scale for each output channel, QuantizeLinear/DequantizeLinear around products."""
    # Folds batch norm into convolutions, among others.
    shape_inference.quant_pre_process(str(source), str(path), skip_symbolic_shape=True)
    folded = onnx.load(path)
    del folded.opset_import[1:]  # of no operator here, and refused by older engines
    onnx.save(folded, path)
    quantization.quantize_static(
        str(path),
        str(path),
        Calibration(feeds),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        extra_options={"MatMulConstBOnly": True},
    )


def reference(path, feeds):
    """The first output, by ONNX Runtime in this process."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def write_forms(folder, source, shapes, sparsity, wanted):
    """Writes a network in each of its forms; gives for each the model, the inputs, the reference and the tolerance."""
    dense, pruned, int8 = (folder / f"{form}.onnx" for form in ("dense", "pruned", "int8"))
    with_fixed_shapes(source, dense, shapes)
    prune(dense, pruned, sparsity / 100, source.stem not in networks.NETWORKS)
    session = onnxruntime.InferenceSession(str(dense), providers=["CPUExecutionProvider"])
    feeds = {given.name: made_up(given.name, given.shape, given.type) for given in session.get_inputs()}
    if "int8" in wanted:
        quantize(dense, int8, feeds)
    inputs = {name: folder / f"{name}.npy" for name in feeds}
    for name, array in feeds.items():
        numpy.save(inputs[name], array)
    forms = {"dense": (dense, race.TOLERANCE), "pruned": (pruned, race.TOLERANCE), "int8": (int8, float("inf"))}
    return {form: (path, inputs, reference(path, feeds), at) for form, (path, at) in forms.items() if form in wanted}


def cell(results, label):
    if not race.ran(results, label):
        return "fails"
    ms = f"{race.median_ms(results[label]):.3g}"
    if label == BASE or not race.ran(results, BASE):
        return ms
    return f"{ms} ({race.number(race.speedup(results[label], results[BASE])[1])})"


def print_table(measured):
    """Contestants down, networks across: milliseconds, and how many times as fast as the first."""
    print("| median ms (× ONNX Runtime) | " + " | ".join(one["model"] for one in measured) + " |")
    print("|---" * (len(measured) + 1) + "|")
    for label in measured[0]["results"]:
        print(f"| {label} | " + " | ".join(cell(one["results"], label) for one in measured) + " |")
    race.print_failures(measured)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--forms", default="dense,pruned,int8", help="only these")
    parser.add_argument("--sparsity", type=int, default=90, help="percent of the weights that are removed")
    race.add_arguments(parser, "models.json")
    args = parser.parse_args()

    contestants = [one for one in race.chosen(CONTESTANTS, args) if one[2] in args.forms.split(",")]
    names = args.models.split(",")
    if unknown := set(names) - set(MODELS):
        raise SystemExit(f"no network is called {', '.join(sorted(unknown))}")
    paths = find_models({MODELS[name][0] for name in names})
    measured = []
    with race.Race(args) as runner, tempfile.TemporaryDirectory(dir=environment.TARGET) as folder:
        for name in names:
            source, shapes = MODELS[name]
            if source not in paths:
                continue
            wanted = {form for _, _, form in contestants}
            forms = write_forms(pathlib.Path(folder), paths[source], shapes, args.sparsity, wanted)
            entries = {label: race.Entry(engine, *forms[form]) for label, engine, form in contestants}
            results = runner.run(entries, pathlib.Path(folder))
            race.print_times(name, results)
            measured.append({"model": name, "sparsity": args.sparsity, "date": race.today(), "results": results})
            result = {**runner.circumstances(), "models": measured}
            args.json.write_text(json.dumps(result))
    if measured:
        print_table(measured)
        print(race.describe(result))


if __name__ == "__main__":
    main()
