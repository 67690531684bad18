#!/usr/bin/env python3
"""Exports untrained networks of many families with both PyTorch exporters, and runs them in ONNX Runtime.

For every module of zoo_modules.py and every variant, writes NAME.VARIANT.onnx and NAME.VARIANT.npz (arrays "in:INPUT",
"out:OUTPUT" of ONNX Runtime), and lists all in index.json, exporter failures included. Variants: `ts` TorchScript
(opset 17), `dynamo` torch.export (default opset), and for some modules `ts11` and `ts13` (older opsets, nothing folded,
batch norms kept), `raw` (torch.export, not optimised), `opset23` (torch.export with the newer operators), `half` (torch.export in float16).

Needs torch, torchvision, transformers, onnx, onnxscript and onnxruntime.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import sys
import time
import traceback
import warnings

import numpy as np
import onnx
import onnxruntime
import torch

import zoo_modules

OLD = ("ts11", "ts13", "raw")
NEW = ("opset23",)
EXTRA_VARIANTS = {
    "tv_resnet18": OLD, "tv_mobilenet_v3_small": OLD, "tv_shufflenet_v2_x1_0": OLD, "tv_densenet121": ("raw",),
    "unet_learnt": OLD, "unet_bilinear": OLD, "squeeze_excite": OLD + ("half",), "branches": OLD, "hf_bert": ("raw", "half") + NEW, "mlp": ("half",),
    "hf_bert_eager": ("ts11", "ts13"), "hf_gpt2_eager": ("ts11", "ts13"), "hf_gpt2": ("raw",) + NEW, "hf_llama": NEW, "hf_llama_cached": NEW, "hf_vit": ("raw",) + NEW,
    "hf_qwen3": NEW, "tv_vit": NEW, "norms_and_activations": ("ts13", "raw") + NEW, "lstm": ("ts11",), "gru": ("ts11",), "hf_gemma": NEW,
}
# Files of these variants keep their weights beside the model, as the torch.export exporter does when not told otherwise.
EXTERNAL_DATA = {("tv_resnet18", "dynamo"), ("hf_bert", "dynamo"), ("hf_llama", "opset23")}


def export(sample, variant, path, dynamic, external):
    """Runs one exporter."""
    names = list(sample.feed)
    outputs = sample.module(**sample.feed)
    count = len(outputs) if isinstance(outputs, (tuple, list)) else 1
    common = dict(input_names=names, output_names=["output"] + [f"output_{i}" for i in range(1, count)])
    arguments = tuple(sample.feed.values())
    if variant.startswith("ts"):
        folded = variant == "ts"
        torch.onnx.export(
            sample.module, arguments, path, dynamo=False, opset_version=int(variant[2:] or 17),
            dynamic_axes=sample.dynamic if dynamic else None, do_constant_folding=folded,
            training=torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE, **common,
        )
    else:
        shapes = None
        if dynamic:
            dims = {label: torch.export.Dim(label) for axes in sample.dynamic.values() for label in axes.values()}
            shapes = tuple({axis: dims[label] for axis, label in sample.dynamic[name].items()} for name in names)
            if dynamic == "automatic":
                shapes = tuple(dict.fromkeys(sample.dynamic[name], torch.export.Dim.DYNAMIC) for name in names)
        torch.onnx.export(
            sample.module, arguments, path, dynamo=True, dynamic_shapes=shapes, external_data=external,
            optimize=variant != "raw", opset_version=23 if variant == "opset23" else None, verbose=False, **common,
        )


def describe(values):
    """Names, element types and shapes of graph inputs or outputs."""
    result = []
    for value in values:
        tensor = value.type.tensor_type
        shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        result.append({"name": value.name, "dtype": onnx.TensorProto.DataType.Name(tensor.elem_type), "shape": shape})
    return result


def make(name, variant, outdir, result):
    """Exports and runs one file; puts the record for the index into the queue."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    started = time.monotonic()
    record = {"name": name, "variant": variant}
    path = outdir / f"{name}.{variant}.onnx"
    log = path.with_suffix(".log")
    with open(log, "wb") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    try:
        sample = zoo_modules.build(name)
        if variant == "half":
            sample.module.half()
            sample.feed = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in sample.feed.items()}
        with torch.no_grad():
            expected = listed(sample.module(**sample.feed))
            attempts = ["named", "automatic", False] if not variant.startswith("ts") else ["named", False]
            for attempt in attempts:
                try:
                    export(sample, variant, path, attempt, (name, variant) in EXTERNAL_DATA)
                    break
                except Exception as problem:
                    record.setdefault("attempts_failed", []).append(f"{attempt}: {shorten(problem)}")
                    if attempt is False:
                        raise
        record["dynamic"] = attempt
        model = onnx.load(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {value.name: sample.feed[value.name].numpy() for value in session.get_inputs()}
        try:
            outputs = session.run(None, feed)
        except Exception as problem:
            # Some fused operators do not broadcast along the batch: a batch of one then still works.
            record.setdefault("attempts_failed", []).append(f"batch of two: {shorten(problem)}")
            single = {name: take_first(tensor, sample.dynamic[name]) for name, tensor in sample.feed.items()}
            expected = listed(sample.module(**single))
            feed = {name: single[name].numpy() for name in feed}
            outputs = session.run(None, feed)
        arrays = {f"in:{key}": value for key, value in feed.items()}
        arrays |= {f"out:{info.name}": value for info, value in zip(session.get_outputs(), outputs)}
        np.savez_compressed(path.with_suffix(".npz"), **arrays)
        spread = [float(np.abs(want).max()) for want in expected]
        differences = [float(np.abs(got - want).max()) / max(most, 1e-9) for got, want, most in zip(outputs, expected, spread)]
        record |= {
            "file": path.name,
            "reference": path.with_suffix(".npz").name,
            "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
            "ir_version": model.ir_version,
            "inputs": describe(model.graph.input),
            "outputs": describe(model.graph.output),
            "feed_shapes": {key: list(value.shape) for key, value in feed.items()},
            "nodes": len(model.graph.node),
            "functions": len(model.functions),
            "parameters": sum(parameter.numel() for parameter in sample.module.parameters()),
            "bytes": sum(file.stat().st_size for file in outdir.glob(f"{path.name}*")),
            "relative_difference_to_torch": max(differences),
            "output_range": [float(outputs[0].min()), float(outputs[0].max())],
            "output_deviation": float(outputs[0].std()),
        }
    except BaseException as problem:
        record["error"] = shorten(problem)
        traceback.print_exc()
        for file in outdir.glob(f"{path.name}*"):
            file.unlink()
    else:
        log.unlink()
    record["seconds"] = round(time.monotonic() - started, 1)
    result.put(record)


def listed(outputs):
    """The outputs of a module as arrays."""
    return [value.numpy() for value in (outputs if isinstance(outputs, (tuple, list)) else [outputs])]


def take_first(tensor, axes):
    """The first entry along the axis that is called batch, kept as an axis."""
    for axis, label in axes.items():
        if label == "batch":
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def shorten(problem):
    """The exception on one line."""
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"


def run_isolated(name, variant, outdir, limit):
    """Runs `make` in a process of its own, so that a crash or a hang costs one file only."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=make, args=(name, variant, outdir, queue))
    process.start()
    try:
        record = queue.get(timeout=limit)
    except Exception:
        record = {"name": name, "variant": variant, "error": f"no result within {limit} s"}
        process.terminate()
    process.join()
    return record


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=pathlib.Path, help="folder that receives the files")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only modules whose name contains one of these")
    parser.add_argument("--variants", nargs="+", metavar="VARIANT", help="only these variants")
    parser.add_argument("--force", action="store_true", help="export again what is there already")
    parser.add_argument("--limit", type=float, default=240, metavar="SECONDS", help="limit for one file (default 240)")
    parser.add_argument("--list", action="store_true", help="list the modules and exit")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(zoo_modules.MODULES))
        return 0

    arguments.outdir.mkdir(parents=True, exist_ok=True)
    index_path = arguments.outdir / "index.json"
    index = json.loads(index_path.read_text()) if index_path.exists() else []
    records = {(record["name"], record["variant"]): record for record in index}
    for name in zoo_modules.MODULES:
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        for variant in ("ts", "dynamo", *EXTRA_VARIANTS.get(name, ())):
            if arguments.variants and variant not in arguments.variants:
                continue
            if (name, variant) in records and "file" in records[name, variant] and not arguments.force:
                continue
            record = run_isolated(name, variant, arguments.outdir, arguments.limit)
            records[name, variant] = record
            index_path.write_text(json.dumps(list(records.values()), indent=1))
            if "error" in record:
                print(f"FAILED {name}.{variant}: {record['error']}", flush=True)
            else:
                print(
                    f"{name}.{variant}: {record['bytes'] / 1e6:.1f} MB, {record['nodes']} nodes, difference "
                    f"{record['relative_difference_to_torch']:.1e}, dynamic {record['dynamic']}, {record['seconds']} s", flush=True,
                )
    done = sum("file" in record for record in records.values())
    print(f"{done} files, {len(records) - done} failures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
