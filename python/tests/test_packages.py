"""Public packages that run ONNX Runtime, with Poda in its place: they do not know it, and give the same. Each is skipped where it is
not installed (pip install -r python/tests/requirements.txt)."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import poda
import pytest

AS_ONNXRUNTIME = """
import sys
if sys.argv[1] == "poda":
    import poda
    sys.modules["onnxruntime"] = poda
import json
import numpy as np
"""

RECOGNISE_TEXT = """
from PIL import Image, ImageDraw
from rapidocr_onnxruntime import RapidOCR

image = Image.new("RGB", (480, 160), "white")
for at, text in [(20, "Poda prunes 42 trees"), (90, "and runs the rest")]:
    ImageDraw.Draw(image).text((20, at), text, fill="black", font_size=36)
found, _ = RapidOCR()(np.asarray(image))
print(json.dumps([[text, round(float(score), 2)] for _, text, score in found]))
"""

TELL_TYPES = """
from magika import Magika

contents = [b"fn main() {\\n    let x = 1;\\n}\\n" * 5, b"def f(x):\\n    return x + 1\\n" * 9, b"a,b,c\\n1,2,3\\n" * 30]
magika = Magika()
print(json.dumps([[found.output.label, round(found.score, 2)] for found in map(magika.identify_bytes, contents)]))
"""


def said(script, engine, folder):
    """What a script prints in a process of its own, where `import onnxruntime` gives `engine`."""
    command = [sys.executable, "-c", AS_ONNXRUNTIME + script, engine]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("package", "script"), [("rapidocr_onnxruntime", RECOGNISE_TEXT), ("magika", TELL_TYPES)], ids=["rapidocr", "magika"]
)
def test_a_package_does_not_know_the_difference(package, script, tmp_path):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    ours, theirs = said(script, "poda", tmp_path), said(script, "onnxruntime", tmp_path)
    assert ours == theirs and len(ours) > 1


def test_pipelines_of_scikit_learn():
    """With a network at the end, or a linear model, as skl2onnx exports them; others are refused by name."""
    pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime")
    from skl2onnx import to_onnx
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    x = np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32)
    y = np.digitize(x[:, :3].sum(axis=1), [-1, 1])
    network = MLPClassifier((32, 16), max_iter=50, random_state=0)
    ends = [network, LogisticRegression(), make_pipeline(PCA(8, random_state=0), network), LinearRegression()]
    for end in ends:
        pipeline = make_pipeline(StandardScaler(), end).fit(x, y)
        classifies = hasattr(pipeline, "predict_proba")
        options = {id(pipeline): {"zipmap": False}} if classifies else None
        model = to_onnx(pipeline, x[:1], options=options).SerializeToString()
        ours, theirs = (
            ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"X": x}) for ort in (poda, onnxruntime)
        )
        assert [array.dtype for array in ours] == [array.dtype for array in theirs]
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        if classifies:
            assert (ours[0] == pipeline.predict(x)).mean() > 0.99

    tree = to_onnx(DecisionTreeClassifier().fit(x, y), x[:1]).SerializeToString()
    with pytest.raises(poda.UnsupportedError, match="TreeEnsembleClassifier"):
        poda.Model(tree)
