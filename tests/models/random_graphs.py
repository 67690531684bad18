#!/usr/bin/env python3
"""Packs random graphs with the outputs that ONNX Runtime gives for them, as `cargo test --test conformance` reads them.

    PODA_SAMPLE=DIRECTORY cargo test --release -p poda-runtime --test differential -- --ignored a_sample_is_written
    tests/models/random_graphs.py DIRECTORY tests/data/random-graphs.tar.zst

The first writes models with what they are fed; here each is run with ONNX Runtime's own optimisations and without. Those that it
does not run, or for which the two differ by more than rounding, are left out, with a line that counts them. Needs `zstd`.
"""

import argparse
import collections
import io
import pathlib
import subprocess
import tarfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper


def run(model, feeds, optimised):
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options).run(None, feeds)


def agree(a, b):
    if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
        return False
    finite = np.isfinite(b) & np.isfinite(a)
    greatest = np.abs(b[finite]).max(initial=1)
    return np.array_equal(a[~finite], b[~finite], equal_nan=True) and (np.abs(a - b)[finite] <= 2e-5 * greatest).all()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("archive", type=pathlib.Path)
    parser.add_argument("--most", type=int, default=400, help="graphs to keep")
    args = parser.parse_args()
    ort.set_default_logger_severity(4)
    counts = collections.Counter()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:

        def add(name, data):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))

        for path in sorted(args.directory.glob("*.onnx")):
            if counts["kept"] == args.most:
                break
            data = path.read_bytes()
            model = onnx.load_from_string(data)
            feeds = {}
            for value in model.graph.input:
                kind = value.type.tensor_type
                raw = path.with_name(f"{path.stem}.{value.name}.bin").read_bytes()
                dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
                feeds[value.name] = np.frombuffer(raw, dtype).reshape([d.dim_value for d in kind.shape.dim])
            try:
                outputs, plain = run(data, feeds, True), run(data, feeds, False)
            except Exception as error:  # whatever ONNX Runtime says
                counts[f"not run: {type(error).__name__}"] += 1
                continue
            if not all(agree(a, b) for a, b in zip(outputs, plain)):
                counts["optimised and not differ"] += 1
                continue
            if sum(a.size for a in plain) > 1500:
                counts["large"] += 1
                continue
            counts["kept"] += 1
            folder = f"random/{path.stem}"
            add(f"{folder}/model.onnx", data)
            for kind, values in (("input", feeds.values()), ("output", plain)):
                for i, value in enumerate(values):
                    tensor = numpy_helper.from_array(np.asarray(value))
                    add(f"{folder}/test_data_set_0/{kind}_{i}.pb", tensor.SerializeToString())
    subprocess.run(["zstd", "--ultra", "-22", "-f", "-q", "-o", args.archive], input=packed.getvalue(), check=True)
    print(dict(counts), args.archive.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
