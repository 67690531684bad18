"""Train in PyTorch, prune, train what is left in PyTorch, come back, serve. Each part may be a cell of a notebook.

    pip install torch onnx onnxscript
    python python/examples/prune_pytorch.py sparse.safetensors [--dynamo]

The data are the 2000 images of clothes of `poda demo`, 1600 to train on, 400 to look at; `--dynamo` takes PyTorch's newer exporter.
"""

# %% The data.
import pathlib
import sys

import numpy as np
import poda
import torch

torch.manual_seed(0)
torch.set_num_threads(1)  # More gain nothing in networks this small.
out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "sparse.safetensors")
dynamo = "--dynamo" in sys.argv
file = np.load(pathlib.Path(__file__).parents[2] / "src/commands/demo/fashion_mnist_test.npz")
images = torch.from_numpy(file["image"].reshape(-1, 784).astype(np.float32))
labels = torch.from_numpy(file["labels"].astype(np.int64))
train, test = slice(0, 1600), slice(1600, None)

# %% Train.
module = torch.nn.Sequential(
    torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
)


def fit(epochs, masks, rate=1e-3):
    """Trains on; where there is a mask, what it has taken stays zero."""
    optimizer = torch.optim.Adam(module.parameters(), rate)
    for _ in range(epochs):
        for batch in torch.randperm(1600).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(images[train][batch]), labels[train][batch]).backward()
            optimizer.step()
            with torch.no_grad():
                for name, mask in masks.items():
                    module.get_parameter(name).mul_(mask)


def right(scores):
    """The share of the test images that are told rightly."""
    return float((np.asarray(scores).argmax(1) == labels[test].numpy()).mean())


fit(10, {})
dense = poda.from_torch(module, images[:1], dynamo=dynamo)
print(f"dense: {right(dense(images[test])):.1%} right")

# %% Prune: by what flows through the model, of the training images; no labels are needed.
pruned = poda.prune(dense, sparsity=0.9, data={dense.inputs[0].name: images[train][:256].numpy()})
print(f"{pruned.sparsity:.0%} zeros: {right(pruned(images[test])):.1%} right")

# %% Train what is left, in PyTorch: a mask for each parameter, under its own name.
masks = poda.to_torch_masks(pruned, module)
with torch.no_grad():
    for name, mask in masks.items():
        module.get_parameter(name).mul_(mask)
fit(10, masks)

# %% Come back, and serve: Model for a program, `poda serve` for others.
poda.convert(poda.from_torch(module, images[:1], dynamo=dynamo), out)
served = poda.Model(out)
print(f"trained on: {right(served(images[test])):.1%} right, {served.sparsity:.0%} zeros")
print(f"{out}: {out.stat().st_size / 2**10:.0f} KiB, dense {len(dense.to_bytes()) / 2**10:.0f} KiB")
