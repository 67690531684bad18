#!/usr/bin/env python3
"""One-shot accuracy without labels: prunes each model by each method and scores what comes out with ONNX Runtime.

    table.py PODA MODELS DATA [--models minilm] [--methods NAME ...] [--sparsities 50 70] [--json FILE]

PODA is the program, MODELS the folder of tests/run.sh, DATA what data.py wrote. A method is arguments of `poda prune`.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort

import data

# Without data; then a criterion with data, and what becomes of the weights that stay.
METHODS = {
    "random": ["--criterion", "random"],
    "magnitude": ["--criterion", "magnitude-l2"],
    "magnitude, global": ["--criterion", "magnitude-l2", "--scope", "global"],
    "wanda": ["--criterion", "wanda", "--update", "none", "DATA"],
    "magnitude, least squares": ["--criterion", "magnitude-l2", "--update", "least-squares", "DATA"],
    "wanda, least squares": ["--criterion", "wanda", "--update", "least-squares", "DATA"],
    "default": ["DATA"],
}


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def top1(path, samples, labels):
    run = session(path)
    hits = 0
    for start in range(0, len(labels), 100):
        scores = run.run(None, {"input": samples[start : start + 100]})[0]
        hits += int((scores.argmax(1) == labels[start : start + 100]).sum())
    return hits / len(labels)


def score(model, path, models, folder):
    if model == "minilm":
        lee = np.load(folder / "lee.npz")
        run, outputs = session(path), []
        for ids in np.split(lee["ids"], np.cumsum(lee["lengths"])[:-1]):
            outputs.append(run.run(None, data.feeds([ids]))[0][0])
        return data.pearson(outputs, lee)
    if model == "mnist_cnn":
        digits = np.load(models / "mnist_digits.npz")
        return top1(path, digits["input"][500:], digits["labels"][500:])
    images = np.load(models / "imagenet_images.npz")
    return top1(path, images["input"], images["labels"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("poda", "models_folder", "data"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--models", nargs="+", default=["mnist_cnn", "efficientnet_lite0", "minilm"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--sparsities", nargs="+", type=int, default=[30, 50, 60, 70, 80])
    parser.add_argument("--extra", nargs="+", default=[], help="arguments for poda prune, after = such as =--damping =0.1")
    parser.add_argument("--json", type=pathlib.Path, help="append each figure to this file")
    arguments = parser.parse_args()
    for model in arguments.models:
        dense = arguments.models_folder / f"{model}.onnx"
        print(f"{model}: dense {score(model, dense, arguments.models_folder, arguments.data):.4f}", flush=True)
        print(f"{'method':32}" + "".join(f"{s:>7} %" for s in arguments.sparsities), flush=True)
        for method in arguments.methods:
            print(f"{method:32}", end="", flush=True)
            for sparsity in arguments.sparsities:
                with tempfile.TemporaryDirectory() as folder:
                    out = pathlib.Path(folder) / "pruned.onnx"
                    given = ["--data", str(arguments.data / f"{model}.calib.npz")]
                    given = [x for a in METHODS[method] for x in (given if a == "DATA" else [a])]
                    command = [arguments.poda, "prune", dense, "-o", out, "--sparsity", str(sparsity / 100), "--no-check", *given]
                    command += [extra.removeprefix("=") for extra in arguments.extra]
                    start = time.perf_counter()
                    done = subprocess.run(command, capture_output=True, text=True)
                    seconds = time.perf_counter() - start
                    if done.returncode:
                        sys.exit(f"\n{done.stderr}")
                    found = score(model, out, arguments.models_folder, arguments.data)
                print(f"{found:>9.4f}", end="", flush=True)
                if arguments.json:
                    row = {"model": model, "method": method, "sparsity": sparsity, "score": found, "seconds": seconds}
                    with arguments.json.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            print(flush=True)


if __name__ == "__main__":
    main()
