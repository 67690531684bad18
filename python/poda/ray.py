"""Poda on Ray: batch scoring on Ray Data, sweeps on Ray Tune, serving on Ray Serve. Each is a thin adapter; nothing else of Poda
knows Ray.

    import poda.ray, ray

    scored = poda.ray.score(ray.data.read_parquet("images"), "model.safetensors", columns={"image": "pixels"})
    results = poda.ray.sweep("model.onnx", {"sparsity": [0.5, 0.7, 0.9]}, evaluate, storage="/shared/sweeps", name="first")
    handle = serve.run(poda.ray.deployment("model.safetensors", num_replicas=2))

A model is given by a path that every node has, such as one in a shared folder, so that the processes of a node share the
pages of one mapping; or as bytes, which go through the object store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from ._poda import Model
from .pruning import prune

if TYPE_CHECKING:
    import ray.data
    import ray.serve
    import ray.tune

Source = Union[str, "os.PathLike[str]", bytes]


def _threads(num_cpus: float) -> int:
    """As many threads as CPUs were asked of Ray, and one where less than one was."""
    return max(1, int(num_cpus))


class Scorer:
    """What an actor of `score` does: holds a model, and adds its outputs to batches."""

    def __init__(self, model: Source, columns: Mapping[str, str], keep: Sequence[str] | None, threads: int) -> None:
        self.model = Model(model, threads=threads)
        self.columns = dict(columns) or {port.name: port.name for port in self.model.inputs}
        self.types = {port.name: port.dtype for port in self.model.inputs}
        self.keep = keep

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        missing = sorted(set(self.columns.values()) - batch.keys())
        if missing:
            raise ValueError(f"the data have no column {missing}; there are {sorted(batch)}")
        # (A batch is a view of Ray's shared memory, and is read where it lies if its type is the model's.)
        feeds = {name: batch[column].astype(self.types[name], copy=False) for name, column in self.columns.items()}
        outputs = self.model.run(feeds)
        kept = batch if self.keep is None else {name: batch[name] for name in self.keep}
        return {**kept, **outputs}


def score(
    data: ray.data.Dataset,
    model: Source,
    *,
    columns: Mapping[str, str] | None = None,
    keep: Sequence[str] | None = None,
    batch_size: int = 64,
    num_cpus: float = 1,
    actors: int | tuple[int, int] = (1, 64),
) -> ray.data.Dataset:
    """The data with the model's outputs as further columns, for every row once, computed lazily by a pool of actors.

    `columns` says for each input of the model which column it is fed; by default those of the same names. `keep` names the
    columns that stay; None for all. Each actor has `num_cpus` CPUs and uses as many threads; `actors` is how many there are,
    or the least and the most. Lost nodes' batches are scored again by others.
    """
    import ray.data

    pool = (
        ray.data.ActorPoolStrategy(size=actors)
        if isinstance(actors, int)
        else ray.data.ActorPoolStrategy(min_size=actors[0], max_size=actors[1])
    )
    source = model if isinstance(model, bytes) else os.path.abspath(model)
    return data.map_batches(
        Scorer,
        fn_constructor_args=(source, dict(columns or {}), keep, _threads(num_cpus)),
        batch_size=batch_size,
        batch_format="numpy",
        zero_copy_batch=True,
        num_cpus=num_cpus,
        compute=pool,
    )


def sweep(
    model: str | os.PathLike[str],
    recipes: Mapping[str, Any],
    evaluate: Callable[[Model], Mapping[str, float]],
    *,
    storage: str | os.PathLike[str],
    name: str,
    num_cpus: float = 1,
    metric: str | None = None,
    mode: str = "max",
) -> ray.tune.ResultGrid:
    """Prune a model in many ways, and evaluate each: a run of Ray Tune, which goes on where it was interrupted.

    `recipes` maps keywords of `poda.prune` to what Tune may choose from: a list is gone through, a tune.uniform and its like are
    drawn from, other values stay. `evaluate(model)` gives numbers by name; sparsity, nnz, MACs and bytes of the weights are
    reported beside them. The pruned models are left as `pruned.safetensors` in the trials' folders, below `storage/name`,
    which must be shared by all nodes. Called again with the same storage and name, only what is missing runs.
    """
    from ray import tune

    source, folder = os.path.abspath(model), os.path.join(os.path.abspath(storage), name)

    def trial(config: dict[str, Any]) -> None:
        out = os.path.join(tune.get_context().get_trial_dir(), "pruned.safetensors")
        os.makedirs(os.path.dirname(out), exist_ok=True)
        pruned = prune(source, out, threads=_threads(num_cpus), **config)
        after = (pruned.report or {})["after"]
        figures = {key: after[key] for key in ("nnz", "nonzero_macs", "bytes")}
        tune.report({**figures, "sparsity": pruned.sparsity, **evaluate(pruned)})

    trainable = tune.with_resources(trial, {"cpu": num_cpus})
    if tune.Tuner.can_restore(folder):
        tuner = tune.Tuner.restore(folder, trainable, resume_unfinished=True, restart_errored=True)
    else:
        space = {key: tune.grid_search(value) if isinstance(value, list) else value for key, value in recipes.items()}
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(metric=metric, mode=mode if metric else None),
            run_config=tune.RunConfig(name=name, storage_path=os.path.abspath(storage)),
        )
    return tuner.fit()


class Replica:
    """What a replica of `deployment` does: holds a model, and runs it on arrays by name, or on JSON of such over HTTP."""

    def __init__(self, model: Source, threads: int, timeout: float | None) -> None:
        self.model = Model(model, threads=threads)
        self.types = {port.name: port.dtype for port in self.model.inputs}
        self.timeout = timeout

    def run(self, feeds: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs for arrays by name."""
        return self.model.run(feeds, timeout=self.timeout)

    async def __call__(self, request: Any) -> Any:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        try:
            sent = (await request.json())["inputs"]
            feeds = {name: np.asarray(array, self.types.get(name)) for name, array in sent.items()}
            outputs = await run_in_threadpool(self.run, feeds)
        except (KeyError, TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except TimeoutError as error:
            return JSONResponse({"error": str(error)}, status_code=504)
        return {"outputs": {name: array.tolist() for name, array in outputs.items()}}


def deployment(
    model: Source,
    *,
    name: str = "poda",
    num_replicas: int | str = 1,
    num_cpus: float = 1,
    max_ongoing_requests: int = 8,
    max_queued_requests: int = 64,
    timeout: float | None = None,
) -> ray.serve.Application:
    """A model for `serve.run`: `handle.run.remote({"x": array})`, or POST {"inputs": {"x": […]}}.

    A replica has `num_cpus` CPUs and uses as many threads. Beyond `max_queued_requests` waiting ones, requests are refused at
    once: BackPressureError from a handle, status 503 over HTTP. `timeout` ends a run after so many seconds.
    """
    from ray import serve

    options = {
        "name": name,
        "num_replicas": num_replicas,
        "max_ongoing_requests": max_ongoing_requests,
        "max_queued_requests": max_queued_requests,
        "ray_actor_options": {"num_cpus": num_cpus},
    }
    source = model if isinstance(model, bytes) else os.path.abspath(model)
    return serve.deployment(**options)(Replica).bind(source, _threads(num_cpus), timeout)
