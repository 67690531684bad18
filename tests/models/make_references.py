#!/usr/bin/env python3
"""Writes small reference inputs and the outputs of ONNX Runtime for the models of fetch_models.py.

Each NAME.npz (or NAME--VARIANT.npz) belongs to NAME.onnx and holds arrays "in:INPUT" and "out:OUTPUT". The inputs are
synthetic and reproducible, and quantised where that makes the file small. Needs numpy and onnxruntime.
"""

import argparse
import pathlib
import sys

import numpy as np
import onnxruntime


def mnist_cnn(random):
    """Eight images of a few strokes each, normalised as the network expects."""
    rows, columns = np.mgrid[0:28, 0:28]
    images = np.zeros((8, 1, 28, 28), np.float32)
    for image in images[:, 0]:
        for _ in range(3):
            (y0, x0), (y1, x1) = random.uniform(5, 23, (2, 2))
            along = np.linspace(0, 1, 20)[:, None, None]
            distance = np.hypot(rows - y0 - along * (y1 - y0), columns - x0 - along * (x1 - x0)).min(axis=0)
            np.maximum(image, np.clip(np.round((2.2 - distance) * 255), 0, 255) / 255, out=image)
    return {"input": (images - np.float32(0.1307)) / np.float32(0.3081)}


def efficientnet_lite0(random):
    """One image of smooth waves, in steps of 8 of 255 grey levels."""
    rows, columns = np.mgrid[0:224, 0:224] / 224
    image = np.zeros((3, 224, 224))
    for channel in image:
        for _ in range(4):
            frequency, direction, phase = random.uniform(0.5, 6), random.uniform(0, 2 * np.pi), random.uniform(0, 6)
            channel += np.sin(2 * np.pi * frequency * (rows * np.sin(direction) + columns * np.cos(direction)) + phase)
    pixels = np.clip(np.round((image / 6 + 0.5) * 32) * 8, 0, 255)
    return {"input": ((pixels - 127) / 128).astype(np.float32)[None]}


def minilm(random):
    """Two sentences of 16 and 9 tokens; the second one is padded."""
    identifiers = random.integers(1996, 29612, (2, 16))
    identifiers[:, 0] = 101
    identifiers[0, 15] = identifiers[1, 8] = 102
    mask = np.ones((2, 16), np.int64)
    mask[1, 9:] = identifiers[1, 9:] = 0
    return {"input_ids": identifiers, "attention_mask": mask, "token_type_ids": np.zeros((2, 16), np.int64)}


def skill_mlp(random):
    """Sixteen unit vectors."""
    vectors = random.standard_normal((16, 384)).astype(np.float32)
    return {"embedding": vectors / np.linalg.norm(vectors, axis=1, keepdims=True)}


def waves(random, shape):
    """A chord with a swelling voice over it, quantised like 8-bit audio."""
    time = np.arange(np.prod(shape)) / 16000
    audio = sum(np.sin(2 * np.pi * pitch * time) / rank for rank, pitch in enumerate((140, 280, 420, 1120), 1))
    audio = audio * np.abs(np.sin(2 * np.pi * 4 * time)) / 3 + 0.02 * random.standard_normal(time.size)
    return (np.round(audio * 127) / 127).astype(np.float32).reshape(shape)


def silero_vad_16k_sequence(random):
    """Twelve frames, starting from a state that is not zero."""
    state = [np.round(random.uniform(-0.5, 0.5, (1, 1, 128)), 2).astype(np.float32) for _ in range(2)]
    return {"input": waves(random, (12, 576)), "h": state[0], "c": state[1]}


def silero_vad(random, rate=16000, batch=2):
    """One frame each of a batch of two, at the given sampling rate."""
    frames = waves(random, (batch, 576 * rate // 16000))
    state = np.round(random.uniform(-0.5, 0.5, (2, batch, 128)), 2).astype(np.float32)
    return {"input": frames, "state": state, "sr": np.array(rate, np.int64)}


def silero_vad_half(random):
    """The 16 kHz model has no input for the rate."""
    feed = silero_vad(random)
    del feed["sr"]
    return feed


REFERENCES = {
    "mnist_cnn": mnist_cnn,
    "efficientnet_lite0": efficientnet_lite0,
    "minilm": minilm,
    "skill_mlp": skill_mlp,
    "silero_vad_16k_sequence": silero_vad_16k_sequence,
    "silero_vad": silero_vad,
    "silero_vad--8k": lambda random: silero_vad(random, rate=8000),
    "silero_vad_half": silero_vad_half,
    "silero_vad_op18_ifless": silero_vad,
    "silero_vad_op18_ifless--8k": lambda random: silero_vad(random, rate=8000),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modeldir", type=pathlib.Path, help="folder with the files of fetch_models.py")
    parser.add_argument("outdir", type=pathlib.Path, help="folder that receives the references")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime (default 1)")
    arguments = parser.parse_args()

    arguments.outdir.mkdir(parents=True, exist_ok=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.log_severity_level = 3
    missing = False
    for name, make_feed in REFERENCES.items():
        path = arguments.modeldir / f"{name.split('--')[0]}.onnx"
        if not path.exists():
            print(f"skipped {name}: {path.name} is missing")
            missing = True
            continue
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = make_feed(np.random.default_rng(0))
        outputs = dict(zip([output.name for output in session.get_outputs()], session.run(None, feed)))
        arrays = {f"in:{key}": value for key, value in feed.items()}
        arrays |= {f"out:{key}": value for key, value in outputs.items()}
        target = arguments.outdir / f"{name}.npz"
        np.savez_compressed(target, **arrays)
        print(f"{target.name}: {target.stat().st_size} bytes, outputs", {k: v.shape for k, v in outputs.items()})
    return 3 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
