#!/usr/bin/env python3
"""Error of each layer's outputs by method, on samples that were kept aside: what exchanging and ADMM gain over one-pass methods.

    layers.py PODA MODEL.onnx CALIBRATION [--sparsity 0.6] [--json FILE]

CALIBRATION is what data.py wrote for the model. Every layer is fitted to the dense model's activations (--inputs dense), so that
methods are compared on the same inputs. Prints the median error of the layers of each method, and of how many layers one method is
better than another.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

METHODS = {
    "wanda": ["--criterion", "wanda", "--update", "none"],
    "wanda, swaps": ["--criterion", "wanda", "--update", "sparse-swaps"],
    "wanda, least squares": ["--criterion", "wanda", "--update", "least-squares"],
    "sparsegpt": ["--criterion", "sparsegpt", "--update", "sparsegpt"],
    "admm": ["--criterion", "wanda", "--scope", "layer", "--update", "admm"],
}
PAIRS = [("wanda, swaps", "wanda"), ("wanda, least squares", "wanda"), ("admm", "sparsegpt")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("poda", "model", "calibration"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--sparsity", default="0.6")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--json", type=pathlib.Path, help="keep figures here, and do not measure again what it has")
    arguments = parser.parse_args()
    found = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    for method in arguments.methods:
        if method in found:
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "pruned.onnx"
            command = [arguments.poda, "prune", arguments.model, "-o", out, "--sparsity", arguments.sparsity, "--no-check"]
            command += ["--inputs", "dense", "--data", arguments.calibration, "--json", *METHODS[method]]
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{method}: {done.stderr}")
        errors = {fit["weight"]: fit["error_after"] for fit in json.loads(done.stdout)["fits"]}
        found[method] = {"seconds": time.perf_counter() - start, "errors": errors}
        if arguments.json:
            arguments.json.write_text(json.dumps(found))
    print(f"{'method':24}{'median error':>14}{'seconds':>10}")
    for method, row in found.items():
        print(f"{method:24}{statistics.median(row['errors'].values()):>14.4e}{row['seconds']:>10.0f}")
    for ours, theirs in PAIRS:
        if ours in found and theirs in found:
            a, b = found[ours]["errors"], found[theirs]["errors"]
            better = sum(a[name] < b[name] for name in a)
            ratio = statistics.median(a[name] / b[name] for name in a)
            print(f"{ours} below {theirs} in {better} of {len(a)} layers; median ratio of errors {ratio:.3f}")


if __name__ == "__main__":
    main()
