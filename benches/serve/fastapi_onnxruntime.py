"""What many would write: ONNX Runtime behind FastAPI and uvicorn, with the protocol's metadata and binary tensors, so that one client
speaks with both.

    MODEL=m.onnx THREADS=2 uvicorn fastapi_onnxruntime:app --port 8090
"""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request, Response

TYPES = {"tensor(float)": ("FP32", "<f4"), "tensor(int64)": ("INT64", "<i8"), "tensor(int32)": ("INT32", "<i4")}
NUMPY = dict(TYPES.values())

path = Path(os.environ["MODEL"])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(os.environ.get("THREADS", "2"))
session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
app = FastAPI()


@app.get("/v1/models")
def models():
    return {"object": "list", "data": [{"id": path.stem}]}


@app.get("/v2/models/{model}")
def metadata(model: str):
    shape = lambda port: [size if isinstance(size, int) else -1 for size in port.shape]
    inputs = [{"name": p.name, "datatype": TYPES[p.type][0], "shape": shape(p)} for p in session.get_inputs()]
    return {"name": model, "versions": ["1"], "platform": "onnxruntime", "inputs": inputs, "outputs": []}


def run(body: bytes, length: int) -> Response:
    head, at, feeds = json.loads(body[:length]), length, {}
    for tensor in head["inputs"]:
        size = tensor["parameters"]["binary_data_size"]
        feeds[tensor["name"]] = np.frombuffer(body, NUMPY[tensor["datatype"]], size // np.dtype(NUMPY[tensor["datatype"]]).itemsize, at).reshape(tensor["shape"])
        at += size
    results = session.run(None, feeds)
    outputs = [
        {"name": name, "datatype": "FP32", "shape": result.shape, "parameters": {"binary_data_size": result.nbytes}}
        for name, result in zip(names, results)
    ]
    text = json.dumps({"model_name": path.stem, "outputs": outputs}).encode()
    content = b"".join([text, *(np.ascontiguousarray(result).tobytes() for result in results)])
    return Response(content, headers={"Inference-Header-Content-Length": str(len(text))}, media_type="application/octet-stream")


@app.post("/v2/models/{model}/infer")
async def infer(request: Request):
    import asyncio

    body = await request.body()
    return await asyncio.to_thread(run, body, int(request.headers["inference-header-content-length"]))
