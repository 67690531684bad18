"""`poda.inspect`, `poda.convert`, `poda.bench`."""

import os
import signal
import threading

import numpy as np
import poda
import pytest
from conftest import model_of
from onnx import TensorProto, helper


def test_a_model_is_inspected(path, product):
    said = poda.inspect(path, batch=4, nodes=True)
    assert said["parameters"] == 2048 and said["macs"] == 4 * 2048 and said["file_bytes"] == path.stat().st_size
    assert said["operators"] == {"MatMul": 1, "Relu": 1} and len(said["nodes"]) == 2
    assert poda.inspect(poda.prune(product, sparsity=0.5))["sparsity"] == pytest.approx(0.5)
    assert poda.inspect(product, shape={"x": (3, 64)})["macs"] == 3 * 2048
    with pytest.raises(poda.InputError):
        poda.inspect(product, shape={"length": 3})
    foreign = helper.make_node("Sing", ["x"], ["y"], name="song", domain="opera")
    graph = helper.make_graph(
        [foreign],
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("opera", 1)])
    assert "Sing" in poda.inspect(model)["unsupported"][0]
    with pytest.raises(poda.UnsupportedError, match="song"):
        poda.Model(model)


def test_a_model_is_converted(path, tmp_path, x):
    out = tmp_path / "m.safetensors"
    pruned = poda.prune(path, sparsity=0.9)
    said = poda.convert(pruned, out)
    assert said["output"]["sparse_weights"] == 1 and said["output"]["file_bytes"] == out.stat().st_size
    dense = poda.convert(out, tmp_path / "dense.safetensors", dense=True)
    assert dense["output"]["sparse_weights"] == 0 and dense["input"]["file_bytes"] == out.stat().st_size
    assert (poda.Model(tmp_path / "dense.safetensors", tune=False)(x).shape) == (5, 32)
    assert poda.convert(out, tmp_path / "int8.safetensors", values="int8")["rounded"][0]["values"] == "int8"
    with pytest.raises(ValueError, match="int8"):
        poda.convert(out, tmp_path / "n.onnx", values="int3")
    with pytest.raises(ValueError, match="which format"):
        poda.convert(out, tmp_path / "m.bin")


def test_models_are_timed_in_turn(path, product, x):
    shares = []
    said = poda.bench(path, poda.prune(product, sparsity=0.9), seconds=0.05, threads=1, progress=shares.append)
    first, second = said["models"]
    assert first["path"] == str(path) and second["path"] == "model 2"
    assert first["speedup_over_first"] == 1 and first["latency_ms"]["p50"] > 0 and shares[-1] == 1
    assert poda.bench(product, feeds={"x": x}, seconds=0)["batch"] == 5
    assert poda.bench(product, batch=3, seconds=0)["models"][0]["shapes"] == {"x": [3, 64]}
    for options in [{"seconds": -1.0}, {"seconds": float("nan")}, {"streams": 0}]:
        with pytest.raises(ValueError):
            poda.bench(product, **options)
    with pytest.raises(ValueError, match="no model"):
        poda.bench()
    with pytest.raises(ZeroDivisionError):
        poda.bench(product, progress=lambda share: 1 / 0)


def test_control_c_ends_a_timing(product):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            poda.bench(product, seconds=60)
    finally:
        signal.signal(signal.SIGINT, before)
