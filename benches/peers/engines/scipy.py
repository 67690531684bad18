"""SciPy's CSR product, one thread: a bare product, no bias.

Loads a weight `[m, k]` from an `.npy` file; the input is `[k, n]`, row-major.
"""
# /// script
# requires-python = ">=3.10"
# dependencies = ["scipy==1.17.1", "numpy==2.4.6"]
# ///

import numpy
import scipy
import scipy.sparse

VERSION = scipy.__version__


def load(model, inputs, threads):
    del threads
    csr, x = scipy.sparse.csr_matrix(numpy.load(model)), inputs["x"]
    return lambda: csr @ x
