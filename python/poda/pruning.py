"""`poda.prune`: the command of that name, with callables of yours as metric, termination condition and progress bar."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Union

import numpy as np

from . import _poda
from ._poda import Model

PathLike = Union[str, "os.PathLike[str]"]
Arrays = Mapping[str, Any]


def prune(
    model: Model | PathLike | bytes,
    output: PathLike | None = None,
    sparsity: float | None = None,
    *,
    recipe: PathLike | Mapping[str, Any] | None = None,
    data: PathLike | Arrays | Iterable[Arrays] | None = None,
    validation: PathLike | Arrays | Iterable[Arrays] | None = None,
    goal: str | None = None,
    time: float = 600.0,
    metric: Callable[[Model], float] | None = None,
    termination: Callable[[dict[str, Any]], bool | str | None] | None = None,
    progress: Callable[[dict[str, Any]], object] | None = None,
    shape: Mapping[str, int | Sequence[int]] | None = None,
    threads: int | None = None,
    prefer: str = "latency",
    **keywords: Any,
) -> Model:
    """Remove what matters least, and give the smaller model; its `report` tells what went.

    `output` is a file to write too, .onnx or .safetensors. `sparsity` is the share to remove. The other keywords are those of
    `poda prune` and of recipes: granularity="channel", criterion=…, scope="global", exclude=["head.*"], target_macs=…,
    max_drop=…, remove_dead=True, values="int8", seed=…, steps=…, check=False. They come on top of `recipe`, a TOML file or a
    mapping.

    `until=["latency=2ms"]` takes as little as reaches that, `keep=["cosine=0.99"]` gives up no more for it; `poda prune --help`
    lists what else can be measured.

    `data` are samples: an .npz file or a folder of them, a dict of arrays [samples, …], or an iterable of such dicts. A few
    hundred, which need no labels, make pruning go by what flows through the model, and fit the weights that stay. They judge
    too, or those of `validation` do: with `labels` among them, the score that `max_drop` limits is top-1 accuracy, with
    `similarities` Pearson's correlation with them; without either `measure="pearson"` or "agreement" compares with the model.
    `metric(model)` is any score of yours, higher is better.

    `goal="faster"` or "smaller" tries ways of pruning for `time` seconds, and takes the best that keeps the score.

    `termination(state)` is asked after each step, with a dict of `sparsity`, `macs` (a share of the dense model's) and
    `drop` (of the score), each None where it is not known: True or "stop" ends the pruning there, "roll back" with the step
    before, None or False goes on, up to `sparsity` (0.95 where nothing is said) in `steps` steps.

    `progress(event)` is told how far it is: a dict with `stage`, and for steps `step`, `of`, `sparsity` and `drop`. What a
    callable raises ends the pruning and comes back as it is; Ctrl-C ends it after the step under way.

    `shape` gives shapes of inputs and sizes of open dimensions: {"ids": (1, 128)} or {"sequence": 128}.
    """
    fields = _fields(recipe, keywords)
    if sparsity is not None:
        fields["sparsity"] = sparsity
    targets = ("sparsity", "target_macs", "max_drop", "until", "keep")
    if termination is not None and not any(fields.get(target) for target in targets):
        fields["sparsity"] = 0.95
    return _poda.prune(
        model if isinstance(model, Model) else Model(model, prepare=False),
        None if output is None else os.fspath(output),
        fields,
        shape=None if shape is None else dict(shape),
        data=None if data is None else _given(data),
        validation=None if validation is None else _given(validation),
        goal=goal,
        time=time,
        metric=metric,
        termination=termination,
        progress=progress,
        threads=threads,
        prefer=prefer,
    )


def _fields(recipe: PathLike | Mapping[str, Any] | None, keywords: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the keywords on top; excluded names add up, as on the command line."""
    fields: dict[str, Any] = {}
    if isinstance(recipe, Mapping):
        fields.update(recipe)
    elif recipe is not None:
        with open(recipe, encoding="utf-8") as file:
            fields.update(_poda.read_recipe(file.read()))
    if keywords.pop("no_check", False):
        fields["check"] = False
    if "exclude" in keywords:
        exclude = keywords.pop("exclude")
        fields["exclude"] = [*fields.get("exclude", []), *([exclude] if isinstance(exclude, str) else exclude)]
    fields.update({name: value for name, value in keywords.items() if value is not None})
    known = _poda.default_recipe()
    for name in fields:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
            raise TypeError(f"prune() has no keyword {name!r}{hint}")
    return fields


def _given(data: PathLike | Arrays | Iterable[Arrays]) -> str | dict[str, np.ndarray[Any, Any]]:
    """A path, of something that is there; or arrays [samples, …] by name, of a dict, or dicts of batches to be put together."""
    if isinstance(data, (str, os.PathLike)):
        os.stat(data)
        return os.fspath(data)
    if isinstance(data, Mapping):
        return {name: np.asarray(array) for name, array in data.items()}
    batches = [dict(batch) for batch in data]
    if not batches:
        raise ValueError("data: there is no batch")
    names = batches[0].keys()
    for batch in batches:
        if batch.keys() != names:
            raise ValueError(f"data: batches have different arrays: {sorted(names)} and {sorted(batch)}")
    return {name: np.concatenate([np.asarray(batch[name]) for batch in batches]) for name in names}
