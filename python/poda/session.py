"""ONNX Runtime's words for running a model: `import poda as ort` runs its common programs.

What Poda does not have (other providers than the CPU, custom operators, I/O binding) is refused, or warned of where ONNX Runtime
warns. Options that change no result and that Poda has no use for are taken and kept.
"""

from __future__ import annotations

import enum
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Union

import numpy as np

from ._poda import Model, Port
from .errors import InputError

PROVIDER = "CPUExecutionProvider"
"""The one execution provider, by ONNX Runtime's name."""

_TYPES = {"float32": "float", "float64": "double"}
"""Where ONNX's names of types are not NumPy's."""


class GraphOptimizationLevel(enum.IntEnum):
    """Levels of ONNX Runtime. Poda always optimises all it can."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(enum.IntEnum):
    """Whether operators run one after the other, as Poda's do."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


class SessionOptions:
    """Options of a session. `intra_op_num_threads` counts (0 for as many as there are); the others are kept."""

    def __init__(self) -> None:
        self.intra_op_num_threads = 0
        self.inter_op_num_threads = 0
        self.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
        self.execution_mode = ExecutionMode.ORT_SEQUENTIAL
        self.enable_cpu_mem_arena = True
        self.enable_mem_pattern = True
        self.enable_mem_reuse = True
        self.enable_profiling = False
        self.log_severity_level = 2
        self.log_verbosity_level = 0
        self.logid = ""
        self.optimized_model_filepath = ""
        self.profile_file_prefix = ""
        self.use_deterministic_compute = False
        self._entries: dict[str, str] = {}

    def add_session_config_entry(self, name: str, value: str) -> None:
        """Keeps an entry."""
        self._entries[name] = value

    def get_session_config_entry(self, name: str) -> str:
        """An entry that was kept."""
        return self._entries[name]

    def register_custom_ops_library(self, path: str) -> None:
        """Refused: Poda runs no code but its own."""
        raise NotImplementedError(f"{path}: custom operators are not supported")


class RunOptions:
    """Options of a run; none changes anything."""

    def __init__(self) -> None:
        self.log_severity_level = 2
        self.log_verbosity_level = 0
        self.logid = ""
        self.terminate = False
        self.only_execute_path_to_fetches = False


class NodeArg:
    """An input or output: its name, type such as 'tensor(float)', and shape of sizes, names and None."""

    def __init__(self, port: Port) -> None:
        self.name = port.name
        self.shape: list[int | str | None] = list(port.shape or [])
        self.type = f"tensor({_TYPES.get(port.dtype or '', port.dtype)})"

    def __repr__(self) -> str:
        return f"NodeArg(name={self.name!r}, type={self.type!r}, shape={self.shape!r})"


class ModelMetadata:
    """What the file says of itself."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self.custom_metadata_map = dict(metadata)
        self.producer_name = self.custom_metadata_map.get("onnx.producer_name", "")
        self.graph_name = self.custom_metadata_map.get("onnx.graph_name", "")
        self.description = self.custom_metadata_map.get("onnx.doc_string", "")
        self.domain = self.custom_metadata_map.get("onnx.domain", "")
        self.version = int(self.custom_metadata_map.get("onnx.model_version", "0") or 0)


class InferenceSession:
    """A model in ONNX Runtime's words: InferenceSession(path_or_bytes, sess_options).run(None, {"x": array}).

    `model` is the `poda.Model` beneath.
    """

    def __init__(
        self,
        path_or_bytes: Union[str, bytes, "os.PathLike[str]"],
        sess_options: SessionOptions | None = None,
        providers: Sequence[str | tuple[str, dict[str, Any]]] | None = None,
        provider_options: Sequence[dict[str, Any]] | None = None,
        **_options: Any,
    ) -> None:
        self._options = sess_options or SessionOptions()
        _warn_of(providers)
        self.model = Model(path_or_bytes, threads=self._options.intra_op_num_threads or None)
        self._inputs = [NodeArg(port) for port in self.model.inputs]
        self._outputs = [NodeArg(port) for port in self.model.outputs]

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
    ) -> list[np.ndarray[Any, Any]]:
        """The outputs of these names, or all of them, in a list."""
        if run_options is not None and run_options.terminate:
            raise InputError("the run was terminated before it began")
        feeds = input_feed if isinstance(input_feed, dict) else dict(input_feed)
        if not output_names:
            return list(self.model.run(feeds).values())
        results = self.model.run(feeds, list(dict.fromkeys(output_names)))
        return [results[name] for name in output_names]

    def get_inputs(self) -> list[NodeArg]:
        """What the model takes."""
        return self._inputs

    def get_outputs(self) -> list[NodeArg]:
        """What the model gives."""
        return self._outputs

    def get_overridable_initializers(self) -> list[NodeArg]:
        """None are told of."""
        return []

    def get_modelmeta(self) -> ModelMetadata:
        """What the file says of itself."""
        return ModelMetadata(self.model.metadata)

    def get_session_options(self) -> SessionOptions:
        """The options that the session was made with."""
        return self._options

    def get_providers(self) -> list[str]:
        """The CPU."""
        return [PROVIDER]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """The CPU's, which has none."""
        return {PROVIDER: {}}

    def set_providers(
        self,
        providers: Sequence[str | tuple[str, dict[str, Any]]] | None = None,
        provider_options: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """Warns of all but the CPU."""
        _warn_of(providers)

    def disable_fallback(self) -> None:
        """There is nothing to fall back from."""

    def enable_fallback(self) -> None:
        """There is nothing to fall back from."""

    def io_binding(self) -> None:
        """Refused: arrays are read and handed over where they lie without it."""
        raise NotImplementedError("I/O binding is for other memory than the CPU's; run() copies no array as it is")


def _warn_of(providers: Sequence[str | tuple[str, dict[str, Any]]] | None) -> None:
    names = [provider if isinstance(provider, str) else provider[0] for provider in providers or []]
    for name in names:
        if name != PROVIDER:
            warnings.warn(f"provider {name!r} is not available; there is {PROVIDER}", stacklevel=3)


def get_available_providers() -> list[str]:
    """The CPU."""
    return [PROVIDER]


def get_all_providers() -> list[str]:
    """The CPU."""
    return [PROVIDER]


def get_device() -> str:
    """The CPU."""
    return "CPU"


def set_default_logger_severity(severity: int) -> None:
    """Poda logs nothing."""


def set_default_logger_verbosity(verbosity: int) -> None:
    """Poda logs nothing."""


def disable_telemetry_events() -> None:
    """Poda sends nothing anywhere."""
