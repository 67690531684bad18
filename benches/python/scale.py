#!/usr/bin/env python3
"""Scoring on Ray Data with 1, 2, 4 … nodes of a local cluster, each of one CPU, and what a row costs beside the model.

    scale.py MODEL [--nodes 1,2,4] [--rows 2000] [--batch 32] [--shape sequence=128]

A rate is that between the first and the last batch that is done, so that starting actors does not count; the whole time is told too.
Beyond the CPUs of this machine nodes share them, and nothing is gained. Needs poda and ray[data].
"""

import argparse
import os
import time

import numpy as np
import poda
import poda.ray
import ray
from ray.cluster_utils import Cluster


class Timed(poda.ray.Scorer):
    """Says when each batch began and was done."""

    def __call__(self, batch):
        begun = time.time()
        rows = len(next(iter(batch.values())))
        super().__call__(batch)
        return {"begun": np.full(rows, begun), "done": np.full(rows, time.time())}


def shapes(model, given):
    """The shape of a row of each input, with the sizes that were given for what is open."""
    sizes = dict(pair.split("=") for pair in given)

    def size(dim, name):
        if isinstance(dim, int):
            return dim
        if dim not in sizes:
            raise SystemExit(f"input {name!r} has dimension {dim!r}: say --shape {dim}=N")
        return int(sizes[dim])

    return {port.name: ([size(dim, port.name) for dim in port.shape[1:]], port.dtype) for port in model.inputs}


def alone(path, rows, batch):
    """Rows a second of a loop in one process, one thread."""
    model = poda.Model(path, threads=1)
    feeds = {name: np.ones((batch, *shape), dtype) for name, (shape, dtype) in rows.items()}
    model.run(feeds)
    begun, runs = time.perf_counter(), 0
    while time.perf_counter() - begun < 5:
        model.run(feeds)
        runs += 1
    return runs * batch / (time.perf_counter() - begun)


def score(path, rows, nodes, count, batch):
    """Rows a second on so many nodes, and the seconds of it all."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 << 20})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, object_store_memory=500 << 20)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        poda.ray.Scorer = Timed

        def made(ids):
            return {name: np.ones((len(ids["id"]), *shape), dtype) for name, (shape, dtype) in rows.items()}

        # The rows are there before the clock starts.
        data = ray.data.range(count, override_num_blocks=max(1, count // batch)).map_batches(made, batch_size=None).materialize()
        begun = time.time()
        found = poda.ray.score(data, path, batch_size=batch, actors=nodes).to_pandas()
        whole = time.time() - begun
        assert len(found) == count
        # The first batch of each actor warms it: its rows and its time are left out.
        first = found["done"].min()
        later = found[found["begun"] >= first]
        return len(later) / (found["done"].max() - first), whole
    finally:
        ray.shutdown()
        cluster.shutdown()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--nodes", default="1,2,4")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--shape", action="append", default=[], metavar="DIM=N")
    args = parser.parse_args()
    path = os.path.abspath(args.model)
    rows = shapes(poda.Model(path, prepare=False), args.shape)
    size = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in rows.values())
    base = alone(path, rows, args.batch)
    print(f"poda {poda.__version__}, ray {ray.__version__}, {len(os.sched_getaffinity(0))} CPUs; {args.rows} rows of {size} bytes, batch {args.batch}")
    print(f"one process, one thread, no Ray: {base:.0f} rows/s")
    for nodes in map(int, args.nodes.split(",")):
        rate, whole = score(path, rows, nodes, args.rows, args.batch)
        print(f"{nodes} nodes: {rate:.0f} rows/s, × {rate / base:.2f}; {whole:.1f} s in all, actors' start included")


if __name__ == "__main__":
    main()
