"""Prune neural networks, and run what is left with SIMD sparse kernels.

    import numpy as np
    import poda

    model = poda.prune("model.onnx", "sparse.safetensors", sparsity=0.9)
    model = poda.Model("sparse.safetensors", threads=2)
    scores = model(np.zeros((1, 3, 224, 224), np.float32))

`Model` runs an ONNX file or an artifact of Poda's; `InferenceSession` does so in the words of ONNX Runtime. `prune`,
`inspect`, `convert` and `bench` do what the commands of these names do. `poda.ray` spreads work over machines, and
`from_torch` and `to_torch_masks` go to and from PyTorch; both need those packages.
"""

from ._poda import Model, Port, __version__
from .errors import DeadlineError, InputError, ModelError, PodaError, PruningError, UnsupportedError
from .pruning import prune
from .session import (
    ExecutionMode,
    GraphOptimizationLevel,
    InferenceSession,
    ModelMetadata,
    NodeArg,
    RunOptions,
    SessionOptions,
    disable_telemetry_events,
    get_all_providers,
    get_available_providers,
    get_device,
    set_default_logger_severity,
    set_default_logger_verbosity,
)
from .tools import bench, convert, inspect
from .torch import from_torch, to_torch_masks

__all__ = [
    "DeadlineError",
    "ExecutionMode",
    "GraphOptimizationLevel",
    "InferenceSession",
    "InputError",
    "Model",
    "ModelError",
    "ModelMetadata",
    "NodeArg",
    "PodaError",
    "Port",
    "PruningError",
    "RunOptions",
    "SessionOptions",
    "UnsupportedError",
    "__version__",
    "bench",
    "convert",
    "disable_telemetry_events",
    "from_torch",
    "get_all_providers",
    "get_available_providers",
    "get_device",
    "inspect",
    "prune",
    "set_default_logger_severity",
    "set_default_logger_verbosity",
    "to_torch_masks",
]
