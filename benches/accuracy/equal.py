#!/usr/bin/env python3
"""Speed at equal accuracy: dense, int8 and pruned forms of pretrained models, each with its score and its time, in one run.

    equal.py PODA MODELS DATA [--models minilm] [--sparsities 70 80 85] [--goal 10min] [--threads 2]

PODA, MODELS and DATA as for table.py. Pruning and quantization see the same unlabelled samples: `poda prune --data`, and ONNX
Runtime's static quantization (per channel, QuantizeLinear/DequantizeLinear) on the first hundred; `dynamic` needs none. With --goal
also what `poda prune --goal faster --max-drop 0.01` finds in that time, judged by DATA's validation file: of the dense model, which is
then quantized as well, and of the quantized one. Scores are
ONNX Runtime's; times those of engines in turns, as benches/peers does it. With --folder the forms are made once, so that a second
run, on a machine that does nothing else, only takes times.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime as ort
from onnxruntime import quantization

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
import environment
import models as peers
import race
import table

CALIBRATED = 100  # samples that static quantization sees
SHAPES = {"minilm": "minilm_b1", "mnist_cnn": "mnist_cnn", "efficientnet_lite0": "efficientnet_lite0"}
OPEN = {"minilm": ["--shape", "sequence=128"]}  # sizes that the model leaves open


class Calibration(quantization.CalibrationDataReader):
    """Hands out samples one by one."""

    def __init__(self, samples):
        self.batches = iter([{name: array[i : i + 1] for name, array in samples.items()} for i in range(CALIBRATED)])

    def get_next(self):
        return next(self.batches, None)


def static(source, out, samples):
    """The path of the statically quantized form, made if it is not there."""
    if not out.exists():
        ready = out.with_suffix(".ready.onnx")
        quantization.shape_inference.quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(ready), str(out), Calibration(samples), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"], extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip
    return out


def dynamic(source, out):
    """The path of the dynamically quantized form, made if it is not there."""
    if not out.exists():
        ready = out.with_suffix(".ready.onnx")
        quantization.shape_inference.quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantization.quantize_dynamic(str(ready), str(out), per_channel=True, op_types_to_quantize=["MatMul", "Gemm"])
    return out


def prune(poda, dense, out, samples, *options):
    """The path of the pruned form, made if it is not there."""
    if not out.exists():
        subprocess.run([poda, "prune", dense, "-o", out, "--data", samples, "--no-check", *options], check=True, capture_output=True)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("poda", "models_folder", "data"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--models", nargs="+", default=list(SHAPES))
    parser.add_argument("--sparsities", nargs="+", type=int, default=[50, 70, 80, 85, 90])
    parser.add_argument("--goal", metavar="TIME", help="how long to look for the fastest model that keeps its score")
    parser.add_argument("--seconds-a-turn", type=float, default=0.05)
    parser.add_argument("--folder", type=pathlib.Path, help="keep the forms here, and do not make again what it has")
    race.add_arguments(parser, "equal.json")
    args = parser.parse_args()
    args.seconds = args.seconds_a_turn
    with race.Race(args) as runner, tempfile.TemporaryDirectory(dir=environment.TARGET) as temporary:
        for model in args.models:
            folder = (args.folder or pathlib.Path(temporary)) / model
            folder.mkdir(parents=True, exist_ok=True)
            dense = args.models_folder / f"{model}.onnx"
            samples = args.data / f"{model}.calib.npz"
            arrays = dict(np.load(samples))
            int8 = static(dense, folder / "static.onnx", arrays)
            forms = {"dense": dense, "int8 static": int8, "int8 dynamic": dynamic(dense, folder / "dynamic.onnx")}
            for sparsity in args.sparsities:
                share = ["--sparsity", str(sparsity / 100)]
                forms[f"pruned {sparsity} %"] = prune(args.poda, dense, folder / f"{sparsity}.onnx", samples, *share)
            if args.goal:
                goal = ["--goal", "faster", "--max-drop", "0.01", "--time", args.goal, "--threads", str(args.threads)]
                judge = ["--validation", args.data / f"{model}.validation.npz", *OPEN.get(model, [])]
                forms["goal"] = prune(args.poda, dense, folder / "goal.onnx", samples, *goal, *judge)
                forms["goal, then int8"] = static(forms["goal"], folder / "goal_int8.onnx", arrays)
                forms["int8, then goal"] = prune(args.poda, int8, folder / "int8_goal.onnx", samples, *goal, *judge)
            session = ort.InferenceSession(str(dense), providers=["CPUExecutionProvider"])
            shapes = peers.MODELS[SHAPES[model]][1]
            feeds = {given.name: peers.made_up(given.name, shapes[given.name], given.type) for given in session.get_inputs()}
            inputs = {name: folder / f"{name}.npy" for name in feeds}
            for name, array in feeds.items():
                np.save(inputs[name], array)
            # In all engines, but pruned ones only where zeros are skipped.
            entries = {}
            for form, path in forms.items():
                for engine in ["poda"] if form.startswith("pruned") else ["onnxruntime", "openvino", "poda"]:
                    shaped = folder / f"{form.replace(' ', '_')}.shaped.onnx"
                    peers.with_fixed_shapes(path, shaped, shapes)
                    entries[f"{form}, {engine}"] = race.Entry(
                        engine, shaped, inputs, peers.reference(shaped, feeds), float("inf")
                    )
            results = runner.run(entries, folder)
            base = results["dense, onnxruntime"]
            print(f"\n| {model} | score | ms | × dense ONNX Runtime |\n|---|---|---|---|")
            scores = {form: table.score(model, path, args.models_folder, args.data) for form, path in forms.items()}
            for label, result in results.items():
                found = scores[label.rsplit(", ", 1)[0]]
                if race.ran(results, label):
                    ratio = race.number(race.speedup(result, base)[1])
                    print(f"| {label} | {found:.4f} | {race.median_ms(result):.3g} | {ratio} |", flush=True)
                else:
                    print(f"| {label} | {found:.4f} | {result['error']} | |", flush=True)
        print(race.describe(runner.circumstances()))


if __name__ == "__main__":
    main()
