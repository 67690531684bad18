"""Programs written for ONNX Runtime, with another import: five common patterns, and the same numbers."""

import os

import numpy as np
import onnxruntime
import poda
import pytest


class Wrapper:
    """As Optimum's: a session, names of inputs and outputs by place, tensors by name."""

    def __init__(self, ort, path):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.model = ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        self.input_names = {key.name: at for at, key in enumerate(self.model.get_inputs())}
        self.output_names = {key.name: at for at, key in enumerate(self.model.get_outputs())}
        self.dtypes = {key.name: key.type for key in self.model.get_inputs()}

    def __call__(self, **inputs):
        unknown = set(inputs) - set(self.input_names)
        onnx_inputs = {name: array for name, array in inputs.items() if name not in unknown}
        outputs = self.model.run(None, onnx_inputs)
        return {name: outputs[at] for name, at in self.output_names.items()}


def sentence(length=16):
    ids = np.random.default_rng(0).integers(1000, 2000, (2, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def both(run, *paths):
    return [run(ort, *paths) for ort in (onnxruntime, poda)]


def alike(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * max(1, np.abs(theirs).max()))


def test_a_wrapper_of_transformers(real):
    theirs, ours = both(lambda ort, path: Wrapper(ort, path)(**sentence(), extra=np.zeros(1)), real("minilm"))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        alike(ours[name], theirs[name])


def test_sentence_embeddings(real):
    def embed(ort, path):
        session = ort.InferenceSession(str(path))
        names = [port.name for port in session.get_inputs()]
        feeds = {name: array for name, array in sentence(24).items() if name in names}
        hidden = session.run([session.get_outputs()[0].name], feeds)[0]
        mean = hidden.mean(axis=1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    theirs, ours = both(embed, real("minilm"))
    alike(ours, theirs)


def test_an_image_classifier(real):
    def classify(ort, path):
        with open(path, "rb") as file:
            session = ort.InferenceSession(file.read(), sess_options=ort.SessionOptions())
        port = session.get_inputs()[0]
        shape = [size if isinstance(size, int) else 1 for size in port.shape]
        assert port.type == "tensor(float)"
        image = np.random.default_rng(0).random(shape, np.float32)
        return session.run([session.get_outputs()[-1].name], {port.name: image})[0]

    theirs, ours = both(classify, real("efficientnet_lite0"))
    alike(ours, theirs)
    assert ours.argmax() == theirs.argmax()


def test_a_pipeline_of_scikit_learn(real):
    """As what skl2onnx exports is used: by the first input's name, predictions of a batch."""

    def predict(ort, path):
        session = ort.InferenceSession(str(path), providers=ort.get_available_providers()[-1:])
        port = session.get_inputs()[0]
        sizes = [size if isinstance(size, int) else 3 for size in port.shape]
        rows = np.random.default_rng(0).random(sizes).astype(np.float32)
        return session.run(None, {port.name: rows})

    theirs, ours = both(predict, real("skill_mlp"))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        alike(a, b)


def test_a_pipeline_of_two_models(real):
    """As text recognition is: images of changing sizes through a session that reads names from the model."""

    class Session:
        def __init__(self, ort, path):
            options = ort.SessionOptions()
            options.log_severity_level = 4
            options.enable_cpu_mem_arena = False
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
            options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
            available = ort.get_available_providers()
            self.session = ort.InferenceSession(str(path), sess_options=options, providers=[("CPUExecutionProvider", {})])
            assert "CPUExecutionProvider" in available and self.session.get_providers() == ["CPUExecutionProvider"]
            self.metadata = self.session.get_modelmeta().custom_metadata_map

        def __call__(self, content):
            return self.session.run(None, dict(zip([port.name for port in self.session.get_inputs()], [content])))

    def read(ort, path):
        session = Session(ort, path)
        images = [np.random.default_rng(n).random((n, 1, 28, 28), np.float32) for n in (1, 3, 2)]
        return np.concatenate([session(image)[0] for image in images])

    theirs, ours = both(read, real("mnist_cnn"))
    alike(ours, theirs)


def test_what_poda_has_not_is_refused_or_warned_of(product, x):
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        session = poda.InferenceSession(product, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(NotImplementedError):
        session.io_binding()
    with pytest.raises(NotImplementedError):
        poda.SessionOptions().register_custom_ops_library("ops.so")
    with pytest.raises(poda.InputError):
        session.run(["z"], {"x": x})
    assert [array.shape for array in session.run(["y", "y"], {"x": x})] == [(5, 32), (5, 32)]
    assert repr(session.get_inputs()[0]) == "NodeArg(name='x', type='tensor(float)', shape=['batch', 64])"
