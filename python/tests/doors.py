"""doors.py MODEL INPUTS.npz OUTPUTS.npz [LIBRARY]: whether Python, and C through ctypes, give these outputs to the last bit."""

import ctypes
import sys

import numpy as np
import poda

TYPES = "float32 float16 bfloat16 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split()


class Tensor(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_size_t)),
        ("rank", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("dtype", ctypes.c_uint32),
    ]


def tensors(arrays):
    def tensor(name, array):
        shape = (ctypes.c_size_t * array.ndim)(*array.shape)
        return Tensor(name.encode(), shape, array.ndim, array.ctypes.data, array.nbytes, TYPES.index(array.dtype.name) + 1)

    return (Tensor * len(arrays))(*(tensor(name, array) for name, array in arrays.items()))


def through_c(library, path, inputs, outputs):
    poda = ctypes.CDLL(library)
    poda.poda_options_new.restype = poda.poda_error_message.restype = ctypes.c_void_p
    options, model, error = ctypes.c_void_p(poda.poda_options_new()), ctypes.c_void_p(), ctypes.c_void_p()
    poda.poda_options_set_threads(options, ctypes.c_size_t(1))
    poda.poda_options_set_tune(options, 0)

    def check(status):
        if status:
            raise RuntimeError(ctypes.string_at(poda.poda_error_message(error)).decode())

    check(poda.poda_model_open(path.encode(), options, ctypes.byref(model), ctypes.byref(error)))
    results = {name: np.zeros_like(array) for name, array in outputs.items()}
    into = tensors(results)
    count = [ctypes.c_size_t(len(arrays)) for arrays in (inputs, results)]
    check(poda.poda_run(model, tensors(inputs), count[0], into, count[1], None, ctypes.byref(error)))
    poda.poda_model_release(model)
    poda.poda_options_release(options)
    return results


def main(path, inputs, outputs, library=None):
    inputs = {name: np.ascontiguousarray(array) for name, array in np.load(inputs).items()}
    outputs = dict(np.load(outputs))
    doors = {"Python": poda.Model(path, threads=1, tune=False).run(inputs)}
    if library:
        doors["C"] = through_c(library, path, inputs, outputs)
    for door, found in doors.items():
        assert found.keys() == outputs.keys(), (door, found.keys())
        for name, array in outputs.items():
            same = found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes()
            assert same and found[name].shape == array.shape, f"{path}: output {name} differs through {door}"
    print(path, "gives the same bits through", ", ".join(doors))


main(*sys.argv[1:])
