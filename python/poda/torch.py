"""To and from PyTorch, which is imported when it is asked for: a module becomes a model, what was pruned becomes masks."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from ._poda import Model

if TYPE_CHECKING:
    import torch


def from_torch(module: torch.nn.Module, example: Any, **options: Any) -> Model:
    """A module as a model, exported through torch.onnx with an `example` of its inputs: a tensor, or a tuple of tensors.

    The first dimension of every input is left open, as a batch, unless `dynamic_shapes` or `dynamic_axes` say otherwise. Options of
    `poda.Model` (threads, prefer, tune) are taken too; all others go to torch.onnx.export.
    """
    import torch

    ours = {name: options.pop(name) for name in ("threads", "prefer", "tune") if name in options}
    arguments = example if isinstance(example, tuple) else (example,)
    names = options.setdefault("input_names", [f"input_{at}" for at in range(len(arguments))] if arguments[1:] else ["input"])
    options.setdefault("output_names", ["output"])
    options.setdefault("dynamo", False)
    if not options["dynamo"] and "dynamic_axes" not in options:
        options["dynamic_axes"] = {name: {0: "batch"} for name in [*names, *options["output_names"]]}
    if options["dynamo"] and not {"dynamic_shapes", "dynamic_axes"} & options.keys():
        # (A size of 1 in the example would be taken for a constant.)
        arguments = tuple(torch.cat([argument, argument]) if len(argument) == 1 else argument for argument in arguments)
        batch = torch.export.Dim("batch")
        options["dynamic_shapes"] = tuple({0: batch} for _ in arguments)
    was_training, file = module.training, io.BytesIO()
    module.eval()
    try:
        with torch.no_grad():
            torch.onnx.export(module, arguments, file, **options)
    finally:
        module.train(was_training)
    return Model(file.getvalue(), **ours)


def to_torch_masks(model: Model, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """For each parameter of `module` whose weight `model` (made from it and pruned) holds zeros in, a mask of ones and zeros.

    Parameters are found by their name, or, where the exporter renamed and transposed them, by the values that are left. A
    parameter that shrank (channels) has no mask. Multiply parameters by their masks, or give each to
    torch.nn.utils.prune.custom_from_mask, and train on.
    """
    import torch

    weights = {name: weight for name, weight in model.weights().items() if weight.ndim > 1}
    masks = {}
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            continue
        values = parameter.detach().cpu().numpy()
        named = [weights[name]] if name in weights else []
        found = next((kept for weight in [*named, *weights.values()] if (kept := _left_of(values, weight)) is not None), None)
        if found is not None and not found.all():
            masks[name] = torch.from_numpy(found.astype(values.dtype)).to(parameter.device)
    return masks


def _left_of(values: np.ndarray[Any, Any], weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Where `weight`, as it is or transposed, is not zero, if all that is left in it are elements of `values`."""
    for candidate in [weight, weight.T]:
        if candidate.shape == values.shape:
            kept: np.ndarray[Any, Any] = candidate != 0
            if kept.any() and np.array_equal(candidate[kept], values[kept]):
                return kept
    return None
