#!/usr/bin/env python3
"""Times single linear layers, y = W·x + b, in every engine: benches/peers/run.sh layers.

W [m, k] is uniform in -1..1 with a random part of it zero. A cell is a layer, a number of columns n and a sparsity; all
contestants get the same weights and inputs and take turns. Results go to a JSON file; --keep goes on with what it has.
Poda and the engines for models read an ONNX file with a Gemm, token-major ([n, k] to [n, m]), as a user's model has it;
feature-major is a 1×1 convolution on [1, k, 1, n]; MKL and SciPy compute W·x alone, [k, n] to [m, n], without bias.
"""

import argparse
import dataclasses
import itertools
import json
import math
import pathlib
import statistics
import tempfile

import numpy
import onnx

import environment
import race

# Label, engine, and which form of the layer it gets.
CONTESTANTS = [
    ("ONNX Runtime", "onnxruntime", "token-major"),
    ("OpenVINO", "openvino", "token-major"),
    ("DeepSparse", "deepsparse", "token-major"),
    ("MKL", "mkl", "product"),
    ("SciPy", "scipy", "product"),
    ("rten", "rten", "token-major"),
    ("tract", "tract", "token-major"),
    ("Poda", "poda", "token-major"),
    ("Poda feature-major", "poda", "feature-major"),
    ("Poda dense", "poda", "dense"),
]
BASE = "ONNX Runtime"
OURS = ["Poda", "Poda feature-major", "Poda dense"]
PEERS = [label for label, _, _ in CONTESTANTS if label not in OURS]

LAYERS = (
    "768x768x1,3072x768x1,4096x4096x1,11008x4096x1,768x768x16,3072x768x16,4096x4096x16,11008x4096x16,"
    "768x768x128,3072x768x128,768x3072x128,4096x4096x128,11008x4096x256"
)


# --- masks: which weights [m, k] are kept


def uniform(random, m, k, sparsity):
    """Each weight by itself."""
    return random.random((m, k), numpy.float32) >= sparsity


def uneven(random, m, k, sparsity):
    """Rows of very uneven density (log-normal), a tenth of the rows and of the columns empty."""
    density = numpy.exp(random.normal(0, 1.5, m))
    columns = random.random(k) >= 0.1
    density *= random.random(m) >= 0.1
    for _ in range(50):  # to the wanted mean, with full rows at most
        density *= (1 - sparsity) * m / (numpy.minimum(density, 1).sum() * columns.mean())
    return (random.random((m, k), numpy.float32) < density[:, None]) & columns


def clustered(random, m, k, sparsity):
    """Squares of 32×32 are dense, thin or nearly empty."""
    squares = random.lognormal(0, 1.5, (math.ceil(m / 32), math.ceil(k / 32)))
    for _ in range(50):
        squares *= (1 - sparsity) / numpy.minimum(squares, 1).mean()
    return random.random((m, k), numpy.float32) < numpy.kron(squares, numpy.ones((32, 32)))[:m, :k]


MASKS = {"uniform": uniform, "uneven": uneven, "clustered": clustered}


def read_weight(text):
    """`FILE.npy`, or `MODEL.onnx:NAME` of a MatMul's [k, m] or of a Gemm's or convolution's [m, k, …] weight; gives [m, k]."""
    path, _, name = text.partition(":")
    if not name:
        return numpy.load(path).astype(numpy.float32)
    graph = onnx.load(path).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    node = next((node for node in graph.node if name in node.input), None)
    if name not in weights or node is None:
        raise SystemExit(f"{path} has no weight {name!r}; it has {', '.join(list(weights)[:20])} …")
    weight = onnx.numpy_helper.to_array(weights[name]).astype(numpy.float32)
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not transposed):
        weight = weight.T
    return numpy.ascontiguousarray(weight.reshape(len(weight), -1))


# --- the forms of a layer


def save_model(path, op, weight, bias, shapes, **attributes):
    """Writes an ONNX model of one operator with weight and bias."""
    value = onnx.helper.make_tensor_value_info
    x, y = (value(name, onnx.TensorProto.FLOAT, shape) for name, shape in zip("xy", shapes, strict=True))
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in (("w", weight), ("b", bias))]
    node = onnx.helper.make_node(op, ["x", "w", "b"], ["y"], **attributes)
    graph = onnx.helper.make_graph([node], "layer", [x], [y], tensors)
    opset = [onnx.helper.make_opsetid("", 13)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def write_forms(folder, pruned, dense, n):
    """Writes a layer in each of its forms; gives for each the model, the inputs and the reference output."""
    m, k = pruned.shape
    random = numpy.random.default_rng(1)
    x = random.uniform(-1, 1, (n, k)).astype(numpy.float32)
    bias = random.uniform(-1, 1, m).astype(numpy.float32)
    numpy.save(folder / "x.npy", x)
    numpy.save(folder / "columns.npy", x.T.copy())
    numpy.save(folder / "map.npy", x.T.copy().reshape(1, k, 1, n))
    numpy.save(folder / "weight.npy", pruned)
    for name, weight in (("pruned", pruned), ("dense", dense)):
        save_model(folder / f"{name}.onnx", "Gemm", weight, bias, ([n, k], [n, m]), transB=1)
    kernel = pruned.reshape(m, k, 1, 1)
    save_model(folder / "map.onnx", "Conv", kernel, bias, ([1, k, 1, n], [1, m, 1, n]), kernel_shape=[1, 1])
    product = x.astype(numpy.float64) @ pruned.T
    return {
        "token-major": (folder / "pruned.onnx", {"x": folder / "x.npy"}, product + bias),
        "feature-major": (folder / "map.onnx", {"x": folder / "map.npy"}, (product + bias).T.reshape(1, m, 1, n)),
        "dense": (folder / "dense.onnx", {"x": folder / "x.npy"}, x.astype(numpy.float64) @ dense.T + bias),
        "product": (folder / "weight.npy", {"x": folder / "columns.npy"}, product.T),
    }


# --- the cells


@dataclasses.dataclass(frozen=True)
class Cell:
    """One place of the table."""

    mask: str
    n: int
    layer: str  # "768x768"
    sparsity: int  # percent


def identity(measured):
    """The cell that was measured."""
    return Cell(**{field.name: measured[field.name] for field in dataclasses.fields(Cell)})


def order(cell):
    """By mask, columns, size of the weight and sparsity."""
    m, k = map(int, cell.layer.split("x"))
    return cell.mask, cell.n, m * k, cell.layer, cell.sparsity


def wanted(args):
    """The cells asked for."""
    if args.weight:
        m, k = read_weight(args.weight).shape
        shapes, masks = [(f"{m}x{k}", n) for n in map(int, args.n.split(","))], [args.weight]
    else:
        shapes = [(text.rpartition("x")[0], int(text.rpartition("x")[2])) for text in args.layers.split(",")]
        masks = args.masks.split(",")
    sparsities = map(int, args.sparsities.split(","))
    return [Cell(mask, n, layer, s) for mask, (layer, n), s in itertools.product(masks, shapes, sparsities)]


def measure(runner, cell, contestants):
    """Times one cell."""
    m, k = map(int, cell.layer.split("x"))
    if cell.mask in MASKS:
        random = numpy.random.default_rng(0)
        dense = random.uniform(-1, 1, (m, k)).astype(numpy.float32)
        pruned = dense * MASKS[cell.mask](random, m, k, cell.sparsity / 100)
    else:
        dense = read_weight(cell.mask)
        pruned = race.prune_smallest(dense, cell.sparsity / 100)
    with tempfile.TemporaryDirectory(dir=environment.TARGET) as folder:
        folder = pathlib.Path(folder)
        forms = write_forms(folder, pruned, dense, cell.n)
        entries = {label: race.Entry(engine, *forms[form]) for label, engine, form in contestants}
        results = runner.run(entries, folder)
    return {**dataclasses.asdict(cell), "date": race.today(), "results": results}


# --- tables


def best_peer(results, ours=OURS[0]):
    """The label of the peer that one of our forms leads least, turn by turn; None when none ran."""
    labels = [label for label in PEERS if race.ran(results, label)]
    if not race.ran(results, ours):
        return min(labels, key=lambda label: race.median_ms(results[label]), default=None)
    return min(labels, key=lambda label: race.speedup(results[ours], results[label])[1], default=None)


def lead(results, ours=OURS[0]):
    """How many times as fast one of our forms is as the best peer, or None."""
    best = best_peer(results, ours)
    if best is None or not race.ran(results, ours):
        return None
    return race.speedup(results[ours], results[best])[1]


def gain(results, label):
    """How many times as fast a contestant is as ONNX Runtime, in words."""
    if not race.ran(results, label) or not race.ran(results, BASE):
        return "fails" if label in results else "–"
    return race.number(race.speedup(results[label], results[BASE])[1])


def title(one):
    """The layer and its mask."""
    mask = "" if one["mask"] == "uniform" else " " + pathlib.Path(one["mask"]).name
    return f"{one['layer'].replace('x', '×')}, n = {one['n']}{mask}"


def print_rows(header, rows):
    """A Markdown table."""
    print("\n| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def print_tables(measured):
    """Every contestant in every cell; Poda beside the best peer by layer and sparsity; the means, and what was lost."""
    labels = [label for label, _, _ in CONTESTANTS if any(label in one["results"] for one in measured)]
    rows = []
    for one in measured:
        results, best = one["results"], best_peer(one["results"])
        ms = f"{race.median_ms(results[BASE]):.3g} ms" if race.ran(results, BASE) else "fails"
        gains = {label: ms if label == BASE else gain(results, label) for label in labels}
        marked = [f"**{text}**" if label == best else text for label, text in gains.items()]
        rows.append([title(one), f"{one['sparsity']} %", *marked])
    print(f"\nSpeed-up over {BASE}; the best peer in bold.")
    print_rows(["layer", "zeros", *labels], rows)

    layers, sparsities = {}, sorted({one["sparsity"] for one in measured})
    for one in measured:
        words = f"{gain(one['results'], OURS[0])} / {gain(one['results'], best_peer(one['results']))}"
        layers.setdefault(title(one), {})[one["sparsity"]] = words
    print(f"\n{OURS[0]}, token-major with bias / the best peer: speed-up over {BASE}.")
    rows = [[name, *(line.get(sparsity, "–") for sparsity in sparsities)] for name, line in layers.items()]
    print_rows(["layer", *(f"{sparsity} %" for sparsity in sparsities)], rows)

    for ours in OURS[:2]:
        leads = [(one, lead(one["results"], ours)) for one in measured]
        leads = [(one, value) for one, value in leads if value is not None]
        if leads:
            mean = statistics.geometric_mean(value for _, value in leads)
            lost = [f"{title(one)}, {one['sparsity']} % ({value:.2f})" for one, value in leads if value < 1]
            print(f"\n{ours}: {mean:.2f} × the best peer (geometric mean of {len(leads)} cells).", end=" ")
            print(f"Behind in {len(lost)}: {'; '.join(lost)}." if lost else "Behind in none.")
    race.print_failures(measured)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default=LAYERS, metavar="MxKxN,…")
    parser.add_argument("--sparsities", default="50,80,90,95", metavar="PERCENT,…")
    parser.add_argument("--masks", default="uniform", help=f"of {', '.join(MASKS)}")
    parser.add_argument("--weight", help="a real weight pruned by magnitude: FILE.npy [m, k] or MODEL.onnx:NAME")
    parser.add_argument("--n", default="1,16,128", help="columns for --weight")
    parser.add_argument("--keep", action="store_true", help="keep what the JSON file has, measure what it lacks")
    parser.add_argument("--table", action="store_true", help="only print the tables of the JSON file")
    race.add_arguments(parser, "layers.json")
    args = parser.parse_args()

    contestants = race.chosen(CONTESTANTS, args)
    result = json.loads(args.json.read_text()) if args.keep or args.table else {"cells": []}
    known = {identity(one): one for one in result["cells"]}
    with race.Race(args) as runner:
        for cell in [] if args.table else wanted(args):
            if cell in known:
                continue
            known[cell] = measure(runner, cell, contestants)
            race.print_times(f"{title(known[cell])}, {cell.sparsity} %", known[cell]["results"])
            # In the order of the table, whatever was measured first.
            measured = sorted(known.values(), key=lambda one: order(identity(one)))
            now = runner.circumstances()
            now["versions"] = result.get("versions", {}) | now["versions"]
            result = {**now, "cells": measured}
            args.json.write_text(json.dumps(result))
    if result["cells"]:
        print_tables(result["cells"])
        print(race.describe(result))


if __name__ == "__main__":
    main()
