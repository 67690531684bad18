#!/usr/bin/env python3
"""What each criterion keeps of a small network when weights, or whole hidden units, go at once and nothing is trained.

    criteria.py PODA [--weights 90 95] [--units 75 90] [--update none] [--json FILE]

PODA is the program. The network and its 2,000 labelled images of Fashion-MNIST are those of `poda demo`: half of the images are
given to the criterion, and what is left is scored on the other half.
"""

import argparse
import json
import pathlib
import re
import subprocess
import tempfile
import time

import numpy as np


def poda(program, *arguments):
    run = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(run.stderr.strip())
    return run.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", metavar="PODA")
    parser.add_argument("--weights", type=int, nargs="*", default=[90, 95])
    parser.add_argument("--units", type=int, nargs="*", default=[75, 90])
    parser.add_argument("--update", default="none")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    names = re.findall(r"^ +- ([a-z0-9-]+):", poda(args.program, "prune", "--help").split("--criterion")[1].split("--update")[0], re.M)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        poda(args.program, "demo", "--keep", folder, "--json")
        arrays = dict(np.load(folder / "fashion_mnist_test.npz"))
        half = len(arrays["labels"]) // 2
        np.savez(folder / "prune.npz", **{name: array[:half] for name, array in arrays.items()})
        np.savez(folder / "score.npz", **{name: array[half:] for name, array in arrays.items()})

        def accuracy(model):
            return json.loads(poda(args.program, "eval", model, "--data", folder / "score.npz", "--json"))["accuracy"]["top1"]

        dense = folder / "dense.safetensors"
        print(f"dense {accuracy(dense):.3f}")
        kinds = [("unstructured", share) for share in args.weights] + [("channel", share) for share in args.units]
        print("| criterion | " + " | ".join(f"{kind} {share} %" for kind, share in kinds) + " | s |")
        print("|---" * (len(kinds) + 2) + "|")
        for name in names:
            found, begun = [], time.time()
            for kind, share in kinds:
                out = folder / "pruned.safetensors"
                flags = ["--granularity", kind, "--sparsity", share / 100, "--criterion", name, "--update", args.update]
                try:
                    poda(args.program, "prune", dense, "-o", out, "--data", folder / "prune.npz", "--round-to", 1, *flags)
                    found.append(accuracy(out))
                except RuntimeError as error:
                    found.append(None)
                    if "does not tell" not in str(error):
                        print(f"{name}, {kind}: {error}")
            if any(found):
                rows.append({"criterion": name, "found": found, "seconds": time.time() - begun})
                shown = " | ".join("" if value is None else f"{value:.3f}" for value in found)
                print(f"| `{name}` | {shown} | {rows[-1]['seconds']:.0f} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"kinds": kinds, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
