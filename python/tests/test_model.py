"""`poda.Model`: arrays in and out, threads, pickling, forks, and what is refused."""

import gc
import multiprocessing
import os
import pathlib
import pickle
import threading

import numpy as np
import poda
import pytest
from conftest import WEIGHTS, model_of
from onnx import TensorProto, helper


def expected(x):
    return np.maximum(x @ WEIGHTS, 0)


def test_a_model_is_called_and_run(path, product, x):
    for source in [str(path), path, product, bytearray(product), memoryview(product)]:
        model = poda.Model(source, threads=1, prefer="memory")
        np.testing.assert_allclose(model(x), expected(x), rtol=1e-5, atol=1e-5)
        outputs = model.run({"x": x})
        assert list(outputs) == ["y"] and (outputs["y"] == model(x=x)).all()
    assert model.threads == 1 and model.sparsity == 0 and model.report is None


def test_ports_say_what_is_declared(product):
    model = poda.Model(product)
    (taken,), (given,) = model.inputs, model.outputs
    assert (taken.name, taken.dtype, taken.shape) == ("x", "float32", ["batch", 64])
    assert (given.name, given.dtype, given.shape) == ("y", "float32", ["batch", 32])
    assert repr(taken) == 'Port(name="x", dtype="float32", shape=["batch", 64])'
    assert "inputs=[\"x\"]" in repr(model)


def test_any_layout_is_read(product, x):
    model = poda.Model(product, threads=1)
    want = model(x)
    wide = np.zeros((5, 128), np.float32)
    wide[:, ::2] = x
    for array in [np.asfortranarray(x), wide[:, ::2], x[::-1][::-1], x.astype(">f4"), x.tolist()]:
        assert (model(array) == want).all()
    raw = np.empty(x.nbytes + 1, np.uint8)[1:]
    raw[:] = x.ravel().view(np.uint8)
    assert (model(raw.view(np.float32).reshape(5, 64)) == want).all()
    assert model(np.empty((0, 64), np.float32)).shape == (0, 32)


class Speaker:
    """An array that is known by DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack_goes_in_and_out(product, x):
    model = poda.Model(product)
    y = model(Speaker(x))
    assert (np.from_dlpack(y) == model(x)).all()


@pytest.mark.parametrize("name", "float32 float16 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split())
def test_every_type_comes_back_as_it_went(name):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(name))
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])
    model = poda.Model(model_of([node], [("x", kind, ["a", "b"])], [("y", kind, ["b", "a"])]))
    x = np.arange(6).reshape(2, 3).astype(name)
    y = model(x)
    assert y.dtype == x.dtype and (y == x.T).all()
    assert model.inputs[0].dtype == name


def test_outputs_are_the_callers_own(product, x):
    """What an output is written into changes neither weights nor later outputs."""
    nodes = [helper.make_node("Identity", ["w"], ["y"]), helper.make_node("Add", ["x", "w"], ["z"])]
    ports = [("y", TensorProto.FLOAT, [2]), ("z", TensorProto.FLOAT, [2])]
    made = model_of(nodes, [("x", TensorProto.FLOAT, [2])], ports, [("w", np.float32([1, 2]))])
    model, x = poda.Model(made), np.float32([0, 0])
    for _ in range(2):
        outputs = model(x)
        assert list(outputs) == ["y", "z"]
        for name in outputs:
            assert outputs[name].tolist() == [1, 2]
            outputs[name][:] = -1
    y = model.run({"x": x}, ["z"])
    assert list(y) == ["z"]
    del model
    gc.collect()
    assert y["z"].tolist() == [1, 2]


def test_errors_are_exceptions_of_sensible_classes(product, x, tmp_path):
    model = poda.Model(product)
    for feeds, said in [
        ({"x": x.astype(np.float64)}, "f64"),
        ({"x": x[:, :3]}, "expected 64"),
        ({"z": x}, "no input is named"),
        ({}, "missing"),
        ({"x": np.array(["a"])}, "not supported"),
        ({"x": np.array([object()])}, "not supported"),
    ]:
        with pytest.raises(poda.InputError, match=said) as error:
            model.run(feeds)
        assert isinstance(error.value, ValueError)
    with pytest.raises(poda.InputError, match="no output is named"):
        model.run({"x": x}, ["nothing"])
    with pytest.raises(TypeError, match="takes 1 inputs"):
        model(x, x)
    with pytest.raises(FileNotFoundError):
        poda.Model(tmp_path / "none.onnx")
    with pytest.raises(poda.ModelError):
        poda.Model(b"no model")
    for source in [5, None, 1.5]:
        with pytest.raises(TypeError, match="a model is a path"):
            poda.Model(source)
    for options in [{"threads": 0}, {"prefer": "speed"}, {"load": "lazily"}]:
        with pytest.raises(ValueError):
            poda.Model(product, **options)
    with pytest.raises(ValueError, match="timeout"):
        model.run({"x": x}, timeout=-1.0)
    with pytest.raises(poda.DeadlineError):
        model.run({"x": x}, timeout=0.0)
    assert model(x).shape == (5, 32), "it stays usable"


def test_what_is_not_supported_is_named():
    node = helper.make_node("StringNormalizer", ["x"], ["y"], name="lower")
    ports = [("x", TensorProto.STRING, [1])], [("y", TensorProto.STRING, [1])]
    with pytest.raises((poda.UnsupportedError, poda.ModelError), match="StringNormalizer|string"):
        poda.Model(model_of([node], *ports))


def test_a_model_pickles_by_path_or_by_content(path, product, x, monkeypatch):
    monkeypatch.chdir(path.parent)
    for model in [poda.Model(path.name, threads=1), poda.Model(product, threads=1), poda.prune(product, sparsity=0.5)]:
        again = pickle.loads(pickle.dumps(model))
        assert (again(x) == model(x)).all()
    assert len(pickle.dumps(poda.Model(path))) < 1000


def run_in_child(model, x, results):
    results.put(model(x))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process")
def test_a_loaded_model_runs_in_a_child(method, path, x):
    """As gunicorn with preload, and multiprocessing, do it."""
    model = poda.Model(path, threads=2)
    want = model(x)
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=run_in_child, args=(model, x, results))
    child.start()
    assert (results.get(timeout=60) == want).all()
    child.join(60)
    assert child.exitcode == 0
    assert (model(x) == want).all()


def test_sixteen_threads_call_one_model(product):
    model = poda.Model(product, threads=2)
    inputs = [np.random.default_rng(seed).standard_normal((3, 64)).astype(np.float32) for seed in range(16)]
    alone = [model(x) for x in inputs]
    wrong = []

    def call(index):
        for _ in range(50):
            if not (model(inputs[index]) == alone[index]).all():
                wrong.append(index)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def resident():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_loading_and_letting_go_leaves_nothing(product, x):
    def load(times):
        for _ in range(times):
            poda.Model(product, threads=2, tune=False)(x)
        return resident(), len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    before = load(300)
    after = load(700)
    assert after[0] - before[0] < 4096, "KiB that stay"
    assert after[1:] == before[1:], "threads and files that stay"


def test_a_model_is_warmed_profiled_and_saved(product, x, tmp_path):
    model = poda.Model(product, threads=1)
    model.warm()
    model.warm({"x": (5, 64)})
    model.warm({"batch": 7})
    with pytest.raises(poda.InputError):
        model.warm({"length": 3})
    for profile in [model.profile(), model.profile({"x": x}, runs=2), model.profile(batch=3)]:
        assert [node["op"] for node in profile["nodes"]] and profile["total_ms"] >= 0
    assert set(model.weights()) == {"w"} and (model.weights()["w"] == WEIGHTS).all()
    for name in ["m.onnx", "m.safetensors"]:
        model.save(tmp_path / name)
        assert (poda.Model(tmp_path / name, threads=1)(x) == model(x)).all()
    with pytest.raises(ValueError, match="which format"):
        model.save(tmp_path / "m.bin")
    with pytest.raises(OSError):
        model.save(tmp_path / "none" / "m.onnx")


def test_a_second_interpreter_is_refused(product):
    interpreters = pytest.importorskip("_xxsubinterpreters" if os.sys.version_info < (3, 13) else "_interpreters")
    other = interpreters.create()
    try:
        code = "try:\n    import poda\nexcept ImportError:\n    pass\nelse:\n    raise SystemExit(1)"
        interpreters.run_string(other, code)
    finally:
        interpreters.destroy(other)


def test_help_reads_well():
    for what in [poda, poda.Model, poda.prune, poda.InferenceSession]:
        assert len(what.__doc__) > 80
    for name in poda.__all__:
        assert getattr(poda, name).__doc__ or name == "__version__", name
