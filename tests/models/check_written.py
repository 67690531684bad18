"""Whether others take the models that Poda wrote.

usage: check_written.py FOLDER

Each folder in FOLDER holds `written.onnx`, and perhaps the `original.onnx` that it was read from, with `input_N.pb` to
run both on. Where ONNX's checker and ONNX Runtime accept the original (or where there is none), the checker must
accept what was written; where ONNX Runtime runs the original, it must run the other to the same outputs under the same
names. Says what differs, and exits with 1 if anything does.
"""

import pathlib
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper


def checked(path, full):
    try:
        onnx.checker.check_model(str(path), full_check=full)
    except Exception as error:  # noqa: BLE001: whatever it is, the model is refused
        return str(error).strip() or repr(error)
    return None


def feeds(case, session):
    for index, value in enumerate(session.get_inputs()):
        proto = onnx.TensorProto()
        proto.ParseFromString((case / f"input_{index}.pb").read_bytes())
        yield value.name, numpy_helper.to_array(proto)


def outputs(path, case):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds(case, session)))))


def same(ours, theirs):
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return False
    if ours.dtype.kind not in "fV":
        return np.array_equal(ours, theirs)
    tolerance = {2: 1e-2, 4: 1e-5, 8: 1e-9}[ours.dtype.itemsize]
    return np.allclose(ours.astype(float), theirs.astype(float), rtol=tolerance, atol=tolerance, equal_nan=True)


def complaint(case):
    original, written = case / "original.onnx", case / "written.onnx"
    if not original.exists():
        return checked(written, full=False)
    if checked(original, full=True) is None and (refused := checked(written, full=True)):
        return f"checker: {refused}"
    try:
        theirs = outputs(original, case)
    except Exception:  # noqa: BLE001: not an operator or a type that it knows
        return None
    try:
        ours = outputs(written, case)
    except Exception as error:  # noqa: BLE001
        return f"ONNX Runtime: {error}"
    if list(ours) != list(theirs):
        return f"outputs {list(ours)} instead of {list(theirs)}"
    wrong = [name for name in theirs if not same(ours[name], theirs[name])]
    return f"other values in {wrong}" if wrong else None


def main():
    cases = sorted(pathlib.Path(sys.argv[1]).iterdir())
    complaints = [(case.name, found) for case in cases if (found := complaint(case))]
    for name, found in complaints:
        print(f"{name}: {found}")
    sys.exit(bool(complaints))


main()
