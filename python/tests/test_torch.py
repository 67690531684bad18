"""To and from PyTorch; skipped where it is not installed (pip install torch onnx)."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import poda
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


def made():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))


def test_train_prune_train_on_and_serve(tmp_path):
    """Trains, prunes, trains what is left in PyTorch, and comes back."""
    module = made()
    x = torch.randn(512, 8)
    labels = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()

    def train(steps, masks=None):
        optimizer = torch.optim.Adam(module.parameters(), 1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x), labels).backward()
            optimizer.step()
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    if masks and name in masks:
                        parameter *= masks[name]

    def right(model):
        return float((model(x.numpy()).argmax(1) == labels.numpy()).mean())

    train(150)
    dense = poda.from_torch(module, x[:1], threads=1)
    np.testing.assert_allclose(dense(x.numpy()), module(x).detach().numpy(), rtol=1e-4, atol=1e-4)
    assert (dense(x) == dense(x.numpy())).all(), "a tensor goes in by DLPack"
    pruned = poda.prune(dense, sparsity=0.8)
    masks = poda.to_torch_masks(pruned, module)
    assert masks.keys() == {"0.weight", "2.weight"}
    zeros = sum(int((mask == 0).sum()) for mask in masks.values()) / (8 * 64 + 64 * 3)
    assert zeros == pytest.approx(0.8, abs=0.01)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in masks:
                parameter *= masks[name]
    train(150, masks)
    back = poda.from_torch(module, x[:1])
    out = tmp_path / "sparse.safetensors"
    assert poda.convert(back, out)["output"]["sparse_weights"] == 2
    served = poda.Model(out)
    assert right(served) >= right(pruned) and right(served) > 0.9
    assert poda.to_torch_masks(dense, module) == {}


def test_several_inputs_have_names():
    class Sum(torch.nn.Module):
        def forward(self, a, b):
            return a + b

    model = poda.from_torch(Sum(), (torch.zeros(1, 2), torch.zeros(1, 2)))
    assert [port.name for port in model.inputs] == ["input_0", "input_1"]
    assert model(np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)).tolist() == [[2, 2]] * 3


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_the_example_trains_prunes_trains_on_and_comes_back(exporter, tmp_path):
    if exporter == "dynamo":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    example = pathlib.Path(__file__).parents[1] / "examples/prune_pytorch.py"
    options = ["--dynamo"] if exporter == "dynamo" else []
    run = subprocess.run(
        [sys.executable, example, tmp_path / "sparse.safetensors", *options], capture_output=True, text=True, timeout=600, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    dense, pruned, back = (float(share) for share in re.findall(r"([\d.]+)% right", run.stdout))
    assert dense > 75 and back > pruned and back > dense - 3, run.stdout
    model = poda.Model(tmp_path / "sparse.safetensors")
    assert 0.85 < model.sparsity < 0.95
