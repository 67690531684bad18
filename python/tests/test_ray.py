"""`poda.ray` on a local cluster; skipped where Ray is not installed (pip install 'ray[data,serve,tune]')."""

import json
import os
import pathlib
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import poda
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    # (Workers look for modules in the driver's folder first, which may be that of the package's source.)
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("driver"))

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    cluster.workers = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    os.chdir(before)


def rows(count):
    def row(batch):
        return {"id": batch["id"], "x": np.random.default_rng(0).random((len(batch["id"]), 64), np.float32)}

    return ray.data.range(count, override_num_blocks=32).map_batches(row, batch_size=None)


def test_every_row_is_scored_once_though_a_node_goes(cluster, path, tmp_path):
    import poda.ray

    class Slow(poda.ray.Scorer):
        def __call__(self, batch):
            time.sleep(0.1)
            return super().__call__(batch)

    poda.ray.Scorer, kept = Slow, poda.ray.Scorer
    try:
        scored = poda.ray.score(rows(2000), path, keep=["id"], batch_size=50, actors=(1, 3))
        lost = threading.Timer(2.0, cluster.remove_node, (cluster.workers.pop(),))
        lost.start()
        found = scored.take_all()
        lost.join()
    finally:
        poda.ray.Scorer = kept
    assert sorted(row["id"] for row in found) == list(range(2000))
    assert all(row["y"].shape == (32,) for row in found)
    with pytest.raises(Exception, match="no column"):
        poda.ray.score(rows(10), path, columns={"x": "pixels"}).take_all()


def test_a_sweep_goes_on_where_it_was_interrupted(cluster, path, tmp_path):
    import poda.ray

    seen = tmp_path / "seen"
    seen.mkdir()

    def evaluate(model):
        (seen / f"{model.sparsity:.2f}-{time.time_ns()}").touch()
        if model.sparsity > 0.8 and len(list(seen.iterdir())) < 4:
            raise RuntimeError("interrupted")
        return {"score": 1 - model.sparsity}

    def sweep():
        recipes = {"sparsity": [0.5, 0.7, 0.9], "check": False}
        return poda.ray.sweep(path, recipes, evaluate, storage=tmp_path / "sweeps", name="first", metric="score")

    first = sweep()
    assert first.num_errors == 1
    again = sweep()
    assert again.num_errors == 0 and len(again) == 3
    assert again.get_best_result("score", "max").config["sparsity"] == 0.5
    assert len(list(seen.glob("0.50-*"))) == 1, "what was done is not done again"
    # (What was interrupted is begun anew in a folder of its own.)
    written = [pathlib.Path(result.path) / "pruned.safetensors" for result in again]
    assert all(path.exists() for path in written) and poda.Model(written[0]).sparsity > 0.4


def test_a_deployment_answers_and_pushes_back(cluster, path, x):
    from ray import serve

    import poda.ray

    want = poda.Model(path, threads=1)(x)
    handle = serve.run(poda.ray.deployment(path, num_cpus=0, max_queued_requests=1, max_ongoing_requests=1))
    try:
        np.testing.assert_allclose(handle.run.remote({"x": x}).result()["y"], want, rtol=1e-5, atol=1e-5)

        def post(body):
            request = urllib.request.Request("http://127.0.0.1:8000/", json.dumps(body).encode())
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        status, answer = post({"inputs": {"x": x.tolist()}})
        assert status == 200
        np.testing.assert_allclose(answer["outputs"]["y"], want, rtol=1e-5, atol=1e-5)
        assert post({"inputs": {"z": [1]}})[0] == 400 and post({})[0] == 400
        from ray.serve.exceptions import BackPressureError

        pending, refused = [], 0
        big = {"x": np.zeros((200_000, 64), np.float32)}
        for _ in range(8):
            pending.append(handle.run.remote(big))
        for response in pending:
            try:
                response.result()
            except BackPressureError:
                refused += 1
        assert 0 < refused < 8
    finally:
        serve.shutdown()
