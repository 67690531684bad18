import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

import numpy as np

__version__: str

class Port:
    """An input or output of a model, as the model declares it."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str | None:
        """NumPy's name of the element type, such as 'float32'; None where the model says nothing."""
    @property
    def shape(self) -> list[int | str | None] | None:
        """Sizes, names of open dimensions, None for open ones without a name; None where the model says nothing."""

class Model:
    """A model, ready to run."""

    def __new__(
        cls,
        path_or_bytes: Union[str, bytes, "os.PathLike[str]", Any],
        threads: int | None = None,
        prefer: str = "latency",
        *,
        tune: bool = True,
        load: str = "map",
        memory_limit: int | None = None,
        prepare: bool = True,
    ) -> Model: ...
    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """Runs the model on arrays, in the order of `inputs` or by name: the one output, or a dict of several."""
    def run(
        self, feeds: dict[str, Any], outputs: Sequence[str] | None = None, *, timeout: float | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Runs the model on arrays by name; gives a dict of its outputs."""
    @property
    def inputs(self) -> list[Port]:
        """What the model takes, in order."""
    @property
    def outputs(self) -> list[Port]:
        """What the model gives, in order."""
    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself."""
    @property
    def threads(self) -> int:
        """Number of threads that a run uses."""
    @property
    def sparsity(self) -> float:
        """Fraction of zeros among all parameters."""
    @property
    def report(self) -> dict[str, Any] | None:
        """What pruning did; None for a model that was not pruned here."""
    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """Every weight by its name, as a dense array of its own."""
    def warm(self, shapes: Mapping[str, int | Sequence[int]] | None = None, *, batch: int = 1) -> None:
        """Plans, packs and tunes ahead, so that the first run is as fast as the next."""
    def profile(
        self,
        feeds: dict[str, Any] | None = None,
        *,
        runs: int = 10,
        batch: int = 1,
        shapes: Mapping[str, int | Sequence[int]] | None = None,
    ) -> dict[str, Any]:
        """Where the time of a run goes: a dict with 'nodes', each with its kernel and milliseconds, and 'total_ms'."""
    def save(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Writes the model: .safetensors, Poda's artifact, or .onnx."""
    def to_bytes(self) -> bytes:
        """The model as the bytes of an artifact."""

def default_recipe() -> dict[str, Any]: ...
def read_recipe(text: str) -> dict[str, Any]: ...
def prune(
    model: Model,
    output: str | None,
    recipe: dict[str, Any],
    *,
    shape: dict[str, int | Sequence[int]] | None,
    data: str | dict[str, np.ndarray[Any, Any]] | None,
    validation: str | dict[str, np.ndarray[Any, Any]] | None,
    goal: str | None,
    time: float,
    metric: Callable[[Model], float] | None,
    termination: Callable[[dict[str, Any]], bool | str | None] | None,
    progress: Callable[[dict[str, Any]], object] | None,
    threads: int | None,
    prefer: str,
) -> Model: ...
def inspect(
    model: Model, *, shape: dict[str, int | Sequence[int]] | None, batch: int, nodes: bool
) -> dict[str, Any]: ...
def convert(model: Model, output: str, *, values: str | None, dense: bool) -> dict[str, Any]: ...
def bench(
    models: list[Model],
    names: list[str],
    *,
    feeds: dict[str, Any] | None,
    shape: dict[str, int | Sequence[int]] | None,
    batch: int,
    seconds: float,
    streams: int,
    progress: Callable[[float], object] | None,
) -> dict[str, Any]: ...
