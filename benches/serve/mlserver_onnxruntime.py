"""ONNX Runtime as a model of MLServer, which speaks the Open Inference Protocol itself.

    MODEL=m.onnx THREADS=2 python mlserver_onnxruntime.py FOLDER PORT     writes FOLDER's settings and serves
"""

import json
import os
import sys
from pathlib import Path

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

TYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64", "tensor(int32)": "INT32"}


def open_session():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("THREADS", "2"))
    return onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])


class OnnxRuntime(MLModel):
    async def load(self):
        self.session = open_session()
        self.names = [output.name for output in self.session.get_outputs()]
        return True

    async def predict(self, payload):
        feeds = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        outputs = [NumpyCodec.encode_output(name, result) for name, result in zip(self.names, self.session.run(None, feeds))]
        return InferenceResponse(model_name=self.name, outputs=outputs)


def main():
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    shape = lambda port: [size if isinstance(size, int) else -1 for size in port.shape]
    inputs = [{"name": p.name, "datatype": TYPES[p.type], "shape": shape(p)} for p in open_session().get_inputs()]
    # In the process that serves, as ONNX Runtime has threads of its own.
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2, "parallel_workers": 0, "debug": False}
    model = {"name": Path(os.environ["MODEL"]).stem, "implementation": "mlserver_onnxruntime.OnnxRuntime", "inputs": inputs}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.execv(Path(sys.executable).parent / "mlserver", ["mlserver", "start", str(folder)])


if __name__ == "__main__":
    main()
