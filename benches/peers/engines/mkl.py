"""Intel MKL's `mkl_sparse_s_mm` (`mkl_sparse_s_mv` for one column), optimised: a bare product of a CSR matrix, no bias.

Loads a weight `[m, k]` from an `.npy` file; the input is `[k, n]`, row-major.
"""
# /// script
# requires-python = ">=3.10"
# dependencies = ["mkl==2026.2.0", "scipy==1.17.1", "numpy==2.4.6"]
# ///

import ctypes
import os
import pathlib
import sys

import numpy
import scipy.sparse

# Idle threads spin for 200 ms by default, longer than a turn; 1 ms is far more than passes between two products.
os.environ["KMP_BLOCKTIME"] = "1"
FOLDER = pathlib.Path(sys.prefix, "lib")
ctypes.CDLL(FOLDER / "libiomp5.so", mode=ctypes.RTLD_GLOBAL)
MKL = ctypes.CDLL(next(FOLDER.glob("libmkl_rt.so*")), mode=ctypes.RTLD_GLOBAL)
TEXT = ctypes.create_string_buffer(200)
MKL.mkl_get_version_string(TEXT, 200)
VERSION = TEXT.value.decode().split(" for ")[0].removeprefix("Intel(R) oneAPI Math Kernel Library Version ")

NO_TRANSPOSE, GENERAL, ROW_MAJOR, AGGRESSIVE, MANY = 10, 20, 101, 61, 10000


class Description(ctypes.Structure):
    """`matrix_descr`."""

    _fields_ = [("type", ctypes.c_int), ("mode", ctypes.c_int), ("diag", ctypes.c_int)]


def check(status):
    if status != 0:
        raise RuntimeError(f"MKL status {status}")


def load(model, inputs, threads):
    MKL.MKL_Set_Num_Threads(threads)
    x = inputs["x"]
    n = x.shape[1]
    csr = scipy.sparse.csr_matrix(numpy.load(model))
    rows, cols = csr.shape
    indptr, indices, values = csr.indptr.astype(numpy.int32), csr.indices.astype(numpy.int32), csr.data
    start = indptr.ctypes.data
    matrix, general = ctypes.c_void_p(), Description(GENERAL, 0, 0)
    pointers = [ctypes.c_void_p(p) for p in (start, start + 4, indices.ctypes.data, values.ctypes.data)]
    check(MKL.mkl_sparse_s_create_csr(ctypes.byref(matrix), 0, rows, cols, *pointers))
    if n == 1:
        check(MKL.mkl_sparse_set_mv_hint(matrix, NO_TRANSPOSE, general, MANY))
    else:
        check(MKL.mkl_sparse_set_mm_hint(matrix, NO_TRANSPOSE, general, ROW_MAJOR, n, MANY))
    MKL.mkl_sparse_set_memory_hint(matrix, AGGRESSIVE)
    check(MKL.mkl_sparse_optimize(matrix))

    buffer = numpy.empty(rows * n * 4 + 64, numpy.uint8)
    offset = -buffer.ctypes.data % 64
    y = buffer[offset : offset + rows * n * 4].view(numpy.float32).reshape(rows, n)
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    from_x, to_y = ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data)
    if n == 1:
        function, arguments = MKL.mkl_sparse_s_mv, (NO_TRANSPOSE, one, matrix, general, from_x, zero, to_y)
    else:
        function = MKL.mkl_sparse_s_mm
        arguments = (NO_TRANSPOSE, one, matrix, general, ROW_MAJOR, from_x, n, n, zero, to_y, n)
    held = Held(matrix, (indptr, indices, values, x))

    def run(held=held):
        check(function(*arguments))
        return y

    return run


class Held:
    """A matrix handle and the arrays that it points into."""

    def __init__(self, matrix, arrays):
        self.matrix, self.arrays = matrix, arrays

    def __del__(self):
        MKL.mkl_sparse_destroy(self.matrix)
