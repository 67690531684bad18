"""`poda.inspect`, `poda.convert` and `poda.bench`: what the commands of these names print as JSON, as dicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

from . import _poda
from ._poda import Model

Source = Union[Model, str, "os.PathLike[str]", bytes]
Shapes = Mapping[str, Union[int, Sequence[int]]]


def inspect(
    model: Source, *, shape: Shapes | None = None, batch: int = 1, nodes: bool = False
) -> dict[str, Any]:
    """What there is to say of a model: inputs, outputs, operators, weights, parameters, MACs, sparsity.

    `shape` gives shapes of inputs and sizes of open dimensions, {"ids": (1, 128)} or {"sequence": 128}; `nodes` lists every
    node. Models that Poda cannot run are told of too: `unsupported` says why.
    """
    return _poda.inspect(_read(model), shape=_dict(shape), batch=batch, nodes=nodes)


def convert(
    model: Source, output: str | os.PathLike[str], *, values: str | None = None, dense: bool = False
) -> dict[str, Any]:
    """Write a model as .onnx or .safetensors; weights that are mostly zero are stored sparse, unless `dense`.

    `values` is the type that weights are stored in: "f32", "bf16", "f16" or "int8".
    """
    return _poda.convert(_read(model), os.fspath(output), values=values, dense=dense)


def bench(
    *models: Source,
    feeds: dict[str, Any] | None = None,
    shape: Shapes | None = None,
    batch: int = 1,
    seconds: float = 2.0,
    streams: int = 1,
    threads: int | None = None,
    prefer: str = "latency",
    tune: bool = True,
    progress: Callable[[float], object] | None = None,
) -> dict[str, Any]:
    """Time models against each other, in turn, for `seconds` each, in `streams` runs at once.

    Inputs are `feeds`, or made up in the sizes of `shape` and `batch`. `progress(share)` is told how much is done; what it
    raises ends the timing, and so does Ctrl-C. Times are of Rust's `run`: a call from Python takes microseconds more.
    """
    made = [
        model if isinstance(model, Model) else Model(model, threads, prefer, tune=tune, prepare=False) for model in models
    ]
    names = [
        os.fspath(model) if isinstance(model, (str, os.PathLike)) else f"model {at}"
        for at, model in enumerate(models, 1)
    ]
    return _poda.bench(
        made,
        names,
        feeds=feeds,
        shape=_dict(shape),
        batch=batch,
        seconds=seconds,
        streams=streams,
        progress=progress,
    )


def _read(model: Source) -> Model:
    """The model, not made ready to run."""
    return model if isinstance(model, Model) else Model(model, prepare=False)


def _dict(shape: Shapes | None) -> dict[str, int | Sequence[int]] | None:
    return None if shape is None else dict(shape)
