#!/usr/bin/env python3
"""Times single linear layers, y = W·x + b, in every engine: benches/peers/run.sh layers.

W [m, k] is uniform in -1..1 with a random part of it zero. A cell is a layer, a number of columns n and a sparsity; all
contestants get the same weights and inputs and take turns. Results are kept in a JSON file; --keep goes on with it.
Poda and the engines for models read an ONNX file with a Gemm, token-major ([n, k] to [n, m]), as a user's model has it;
feature-major is a 1×1 convolution on [1, k, 1, n]; MKL and SciPy compute W·x alone, [k, n] to [m, n], without bias.
"""

import argparse
import dataclasses
import itertools
import json
import math
import pathlib
import shutil
import statistics

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


def prune_smallest(weight, sparsity):
    """A trained weight with its smallest elements set to zero."""
    magnitude = numpy.abs(weight)
    return weight * (magnitude > numpy.quantile(magnitude, sparsity))


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

    layer: str  # "768x768"
    n: int
    sparsity: int  # percent
    mask: str


def cells(args):
    """The cells asked for."""
    if args.weight:
        m, k = read_weight(args.weight).shape
        shapes, masks = [(f"{m}x{k}", n) for n in map(int, args.n.split(","))], [args.weight]
    else:
        shapes = [(text.rpartition("x")[0], int(text.rpartition("x")[2])) for text in args.layers.split(",")]
        masks = args.masks.split(",")
    sparsities = map(int, args.sparsities.split(","))
    return [Cell(*shape, s, mask) for mask, shape, s in itertools.product(masks, shapes, list(sparsities))]


def measure(runner, cell, contestants, folder):
    """Times one cell."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    m, k = map(int, cell.layer.split("x"))
    if cell.mask in MASKS:
        random = numpy.random.default_rng(0)
        dense = random.uniform(-1, 1, (m, k)).astype(numpy.float32)
        pruned = dense * MASKS[cell.mask](random, m, k, cell.sparsity / 100)
    else:
        dense = read_weight(cell.mask)
        pruned = prune_smallest(dense, cell.sparsity / 100)
    forms = write_forms(folder, pruned, dense, cell.n)
    entries = {label: race.Entry(engine, *forms[form]) for label, engine, form in contestants}
    results = runner.run(entries, folder)
    shutil.rmtree(folder)
    return {**dataclasses.asdict(cell), "date": race.today(), "results": results}


# --- the table


def best_peer(results):
    """The label of the fastest peer."""
    labels = race.succeeded(results, PEERS)
    return min(labels, key=lambda label: race.median_ms(results[label])) if labels else None


def lead(results, ours):
    """How far one of our forms is ahead of the fastest peer."""
    best = best_peer(results)
    if best is None or not race.succeeded(results, [ours]):
        return None
    return race.speedup(results[ours], results[best])[0]


def number(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def row(measured, labels):
    """One line of the table: speed-ups over ONNX Runtime."""
    results = measured["results"]
    base = results.get(BASE, {})
    best = best_peer(results)

    def cell(label):
        if "turns_ms" not in results.get(label, {}):
            return "fails" if label in results else "–"
        mark = "**" if label == best else ""
        return mark + number(race.speedup(results[label], base)[0]) + mark

    name = f"{measured['layer']}×{measured['n']}".replace("x", "×")
    if measured["mask"] != "uniform":
        name += f" {pathlib.Path(measured['mask']).name}"
    ms = f"{race.median_ms(base):.3g}" if "turns_ms" in base else "fails"
    leads = [lead(results, label) for label in OURS[:2]]
    leads = [number(value) if value else "–" for value in leads]
    return [name, f"{measured['sparsity']} %", ms, *map(cell, labels), *leads]


def print_table(measured):
    """The table, its geometric means, what was lost, and what failed."""
    present = set().union(*(one["results"] for one in measured))
    labels = [label for label, _, _ in CONTESTANTS if label in present and label != BASE]
    header = ["m×k×n", "zeros", f"{BASE}, ms", *labels, "lead", "feature-major"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for one in measured:
        print("| " + " | ".join(row(one, labels)) + " |")
    for ours in OURS[:2]:
        leads = {json.dumps([one[key] for key in ("layer", "n", "sparsity", "mask")]): lead(one["results"], ours) for one in measured}
        leads = {key: value for key, value in leads.items() if value}
        if leads:
            lost = [f"{layer}×{n} {sparsity} % {mask} ({value:.2f})" for key, value in leads.items() if value < 1 for layer, n, sparsity, mask in [json.loads(key)]]
            mean = statistics.geometric_mean(leads.values())
            print(f"\n{ours}: {mean:.2f} × the best peer (geometric mean of {len(leads)} cells); behind in {len(lost)}: {', '.join(lost) or 'none'}")
    failures = {(label, result["error"]) for one in measured for label, result in one["results"].items() if "error" in result}
    for label, reason in sorted(failures):
        print(f"{label} failed: {reason}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default=LAYERS, metavar="MxKxN,…")
    parser.add_argument("--sparsities", default="50,80,90,95", metavar="PERCENT,…")
    parser.add_argument("--masks", default="uniform", help=f"of {', '.join(MASKS)}")
    parser.add_argument("--weight", metavar="FILE", help="a real weight, FILE.npy [m, k] or MODEL.onnx:NAME, pruned by magnitude")
    parser.add_argument("--n", default="1,16,128", help="columns for --weight")
    parser.add_argument("--engines", help="only these, such as onnxruntime,mkl,poda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=0.03, help="of one turn")
    parser.add_argument("--json", type=pathlib.Path, default=environment.TARGET / "layers.json")
    parser.add_argument("--keep", action="store_true", help="keep what the JSON file has, measure what it lacks")
    parser.add_argument("--table", action="store_true", help="only print the table of the JSON file")
    args = parser.parse_args()

    kept = json.loads(args.json.read_text()) if args.keep or args.table else {"cells": []}
    measured = kept["cells"]
    known = {Cell(**{field.name: one[field.name] for field in dataclasses.fields(Cell)}) for one in measured}
    wanted = [] if args.table else [cell for cell in cells(args) if cell not in known]
    engines = args.engines.split(",") if args.engines else [engine for _, engine, _ in CONTESTANTS]
    contestants = [one for one in CONTESTANTS if one[1] in engines]
    runner = race.Race(args.threads, args.seconds, args.rounds)
    for cell in wanted:
        one = measure(runner, cell, contestants, environment.TARGET / "work")
        print(" ".join(row(one, [label for label, _, _ in contestants if label != BASE])), flush=True)
        measured.append(one)
        kept = {**race.circumstances(runner), "cells": measured}
        args.json.write_text(json.dumps(kept))
    runner.close()
    print_table(measured)
    print(race.describe(kept))


if __name__ == "__main__":
    main()
