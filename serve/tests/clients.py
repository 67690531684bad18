"""Speaks with a running server through clients that others wrote: tritonclient, openai, Prometheus' parser, reflection.

    clients.py HTTP GRPC TEXT_MODEL

The server has `sum` (`y = x · ones + 1`, [batch, 4] to [batch, 3]) and a text model, and allows model control.
"""

import sys
import urllib.request

import grpc
import numpy as np
import openai
import tritonclient.grpc
import tritonclient.http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client.parser import text_string_to_metric_families


def triton(module, address, **options):
    client = module.InferenceServerClient(address)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("sum")
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    expected = np.repeat(x.sum(axis=1, keepdims=True) + 1, 3, axis=1)
    inputs = module.InferInput("x", [2, 4], "FP32")
    for binary in options.get("binary", [None]):
        if binary is None:
            inputs.set_data_from_numpy(x)
            outputs = [module.InferRequestedOutput("y")]
        else:
            inputs.set_data_from_numpy(x, binary_data=binary)
            outputs = [module.InferRequestedOutput("y", binary_data=binary)]
        result = client.infer("sum", [inputs], outputs=outputs, request_id="seven")
        np.testing.assert_allclose(result.as_numpy("y"), expected)
        np.testing.assert_allclose(client.infer("sum", [inputs]).as_numpy("y"), expected)
    for wrong in ["none", "sum"]:
        inputs = module.InferInput("x", [1, 5], "FP32")
        inputs.set_data_from_numpy(np.zeros((1, 5), np.float32))
        try:
            client.infer(wrong, [inputs])
        except tritonclient.utils.InferenceServerException as error:
            assert "no model is named" in str(error) if wrong == "none" else "expected 4" in str(error), error
        else:
            raise AssertionError(f"{wrong} was answered")
    # Texts as tensors: refused by name, as no model takes them.
    inputs = module.InferInput("x", [1, 4], "BYTES")
    inputs.set_data_from_numpy(np.array([[b"a", b"b", b"c", b"d"]], dtype=np.object_))
    try:
        client.infer("sum", [inputs])
    except tritonclient.utils.InferenceServerException as error:
        assert "BYTES" in str(error) and error.status() in ("400", "StatusCode.INVALID_ARGUMENT"), (error, error.status())
    else:
        raise AssertionError("a tensor of texts was answered")
    return client


def over_http(address):
    client = triton(tritonclient.http, address, binary=[True, False])
    assert client.get_server_metadata()["name"] == "poda"
    assert client.get_model_metadata("sum")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    statistics = client.get_inference_statistics("sum")["model_stats"][0]
    assert statistics["inference_stats"]["success"]["count"] >= 2, statistics
    assert {"name": "sum", "version": "1", "state": "READY", "reason": ""} in client.get_model_repository_index()
    client.unload_model("sum")
    assert not client.is_model_ready("sum")
    client.load_model("sum")
    assert client.is_model_ready("sum")


def over_grpc(address):
    client = triton(tritonclient.grpc, address)
    assert client.get_server_metadata().name == "poda"
    assert list(client.get_model_metadata("sum").inputs[0].shape) == [-1, 4]
    assert client.get_inference_statistics("sum").model_stats[0].inference_stats.success.count >= 2
    assert any(model.name == "sum" for model in client.get_model_repository_index().models)
    inputs = tritonclient.grpc.InferInput("x", [1, 4], "FP32")
    inputs.set_data_from_numpy(np.ones((1, 4), np.float32))
    # Many at once over one connection.
    import queue

    results = queue.Queue()
    for _ in range(50):
        client.async_infer("sum", [inputs], callback=lambda result, error: results.put((result, error)))
    for _ in range(50):
        result, error = results.get(timeout=60)
        assert error is None, error
        np.testing.assert_allclose(result.as_numpy("y"), [[5, 5, 5]])
    channel = grpc.insecure_channel(address)
    names = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert "inference.GRPCInferenceService" in names, names
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""))
    assert health.status == health_pb2.HealthCheckResponse.SERVING, health


def embeddings(address, model):
    client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="unused")
    assert model in [listed.id for listed in client.models.list()]
    texts = ["the cat sat", "a dog", "the cat sat", "the the the the the the the the the the the the the the the the cat"]
    answer = client.embeddings.create(model=model, input=texts)
    vectors = np.array([item.embedding for item in answer.data])
    assert [item.index for item in answer.data] == [0, 1, 2, 3]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-5)
    assert vectors[0] @ vectors[1] < 0.9999
    alone = client.embeddings.create(model=model, input=texts[3], encoding_format="float")
    np.testing.assert_allclose(alone.data[0].embedding, vectors[3], atol=1e-4)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(texts)
    try:
        client.embeddings.create(model="none", input="a")
    except openai.NotFoundError as error:
        assert "no model is named" in str(error), error
    else:
        raise AssertionError("a model that is not there answered")


def metrics(address):
    text = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    success = {sample.labels["model"]: sample.value for sample in families["nv_inference_request_success"].samples}
    assert success["sum"] >= 50, success
    assert families["poda_request_duration_seconds"].type == "histogram"
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6


def main():
    http, grpc_address, text = sys.argv[1:]
    over_http(http)
    over_grpc(grpc_address)
    embeddings(http, text)
    metrics(http)
    print("every client was answered")


main()
