"""`poda.prune`: keywords, recipes, data, and callables that are asked."""

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import poda
import pytest


def test_weights_go_and_the_file_shrinks(path, tmp_path, x):
    out = tmp_path / "sparse.safetensors"
    pruned = poda.prune(path, out, sparsity=0.75)
    assert abs(pruned.sparsity - 0.75) < 1e-3
    assert pruned.report["after"]["nnz"] == 512
    assert pruned.report["file"]["after"] == out.stat().st_size < path.stat().st_size
    assert (poda.Model(out)(x) == pruned(x)).all()
    json.dumps(pruned.report)
    assert poda.Model(path).sparsity == 0, "the model that was given stays"


def test_keywords_are_those_of_recipes(product, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('granularity = "block:4x1"\nsparsity = 0.5\nexclude = ["nothing*"]\n')
    with pytest.raises(poda.PruningError, match="nothing"):
        poda.prune(product, recipe=recipe)
    recipe.write_text('granularity = "block:4x1"\nsparsity = 0.5\n')
    assert poda.prune(product, recipe=recipe).report["granularity"] == "block:4x1"
    pruned = poda.prune(product, recipe=recipe, granularity="nm:2:4", sparsity=0.5, values="int8", no_check=True)
    assert pruned.report["granularity"] == "nm:2:4" and pruned.report["rounded"]
    assert pruned.report["check"] is None
    assert poda.prune(product, recipe={"sparsity": 0.25}, shape={"batch": 3}).report["check"]["relative"] < 1e-3
    for keywords, error, said in [
        ({"sparsty": 0.5}, TypeError, "did you mean 'sparsity'"),
        ({"sparsity": 1.5}, ValueError, "sparsity is 1.5"),
        ({}, ValueError, "nothing to do"),
        ({"sparsity": "much"}, ValueError, "sparsity|number"),
        ({"sparsity": 0.5, "granularity": "rows"}, ValueError, "no granularity"),
        ({"sparsity": 0.5, "output": "m.bin"}, ValueError, "which format"),
    ]:
        with pytest.raises(error, match=said):
            poda.prune(product, **keywords)


def test_a_metric_of_ones_own_limits_the_drop(product, x):
    want, asked = poda.Model(product)(x), []

    def likeness(model):
        y = model(x)
        asked.append(float((y * want).sum() / np.linalg.norm(y) / np.linalg.norm(want)))
        return asked[-1]

    pruned = poda.prune(product, metric=likeness, max_drop=0.05, steps=10)
    assert asked[0] == pytest.approx(1) and len(asked) > 2
    assert 0.2 < pruned.sparsity < 0.95
    with pytest.raises(ZeroDivisionError):
        poda.prune(product, metric=lambda model: 1 / 0, max_drop=0.1)
    with pytest.raises(TypeError):
        poda.prune(product, metric=lambda model: "good", max_drop=0.1)


def test_samples_come_in_batches(product, x):
    labels = poda.Model(product)(x).argmax(1)
    batches = ({"x": x[at : at + 2], "labels": labels[at : at + 2]} for at in range(0, 5, 2))
    pruned = poda.prune(product, data=batches, max_drop=0.0, steps=10)
    kept = pruned(x).argmax(1)
    assert (kept == labels).all() and pruned.sparsity > 0
    for data, said in [([], "no batch"), ([{"x": x}, {"z": x}], "different arrays")]:
        with pytest.raises(ValueError, match=said):
            poda.prune(product, data=data, max_drop=0.1)


def test_weights_are_fitted_to_unlabelled_samples(product, tmp_path):
    """Better than by magnitude: inputs of which one half is much larger, so that what flows through counts."""
    x = np.random.default_rng(2).standard_normal((300, 64)).astype(np.float32) * np.where(np.arange(64) < 32, 0.1, 3.0).astype(np.float32)
    want = poda.Model(product)(x)

    def error(**given):
        pruned = poda.prune(product, sparsity=0.6, **given)
        return float(np.square(pruned(x) - want).mean()), pruned.report

    alone, report = error()
    assert not report.get("fits")
    fitted, report = error(data={"x": x})
    assert fitted < 0.5 * alone and report["fits"] and report["likeness"]["mean"] > 0.9
    np.savez(tmp_path / "samples.npz", x=x)
    assert error(data=tmp_path / "samples.npz")[0] == pytest.approx(fitted, rel=1e-3)
    with pytest.raises(FileNotFoundError):
        poda.prune(product, sparsity=0.6, data=tmp_path / "none.npz")
    with pytest.raises(poda.InputError, match="z"):
        poda.prune(product, sparsity=0.6, data={"z": x[:, :3], "y": x})


def test_a_goal_is_reached_by_the_best_of_several_ways(product, x):
    x = np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32)
    pruned = poda.prune(product, goal="smaller", data={"x": x}, keep=["cosine=0.9"], steps=4, check=False)
    assert len(pruned.to_bytes()) < len(poda.Model(product).to_bytes())
    assert len(pruned.report["goal"]["attempts"]) > 1
    for keywords, said in [({"goal": "better"}, "expected 'faster' or 'smaller'"), ({"goal": "faster", "time": -1}, "time")]:
        with pytest.raises(ValueError, match=said):
            poda.prune(product, data={"x": x}, **keywords)
    with pytest.raises(TypeError, match="goal needs samples"):
        poda.prune(product, goal="faster")


def test_the_user_is_asked_after_each_step(product):
    states = []

    def enough(state):
        states.append(state)
        return state["sparsity"] >= 0.5

    pruned = poda.prune(product, termination=enough, steps=19)
    assert pruned.sparsity == pytest.approx(0.5, abs=0.03)
    assert [state["sparsity"] for state in states] == pytest.approx([0.05 * n for n in range(1, 11)])
    back = poda.prune(product, termination=lambda s: "roll back" if s["sparsity"] > 0.5 else None, steps=19)
    assert back.sparsity == pytest.approx(0.5, abs=0.03)
    with pytest.raises(TypeError, match="termination said \"perhaps\""):
        poda.prune(product, termination=lambda state: "perhaps")
    with pytest.raises(KeyError):
        poda.prune(product, termination=lambda state: state["score"], check=False)


def test_progress_is_told_and_may_raise(product):
    events = []
    poda.prune(product, sparsity=0.5, progress=events.append)
    assert [event["stage"] for event in events][:2] == ["analyzing", "scoring"]
    assert any(event["stage"] == "step" and event["sparsity"] == 0.5 for event in events)

    def refuse(event):
        raise RuntimeError(event["stage"])

    with pytest.raises(RuntimeError, match="analyzing"):
        poda.prune(product, sparsity=0.5, progress=refuse)


def test_other_threads_go_on(product):
    """A pruning lets the interpreter go: its callables run between, and so does everything else."""
    turns = threading.Event()
    waiting = threading.Thread(target=turns.set)

    def progress(event):
        if event["stage"] == "scoring":
            waiting.start()
            assert turns.wait(30)

    poda.prune(product, sparsity=0.5, progress=progress)


def test_control_c_ends_a_pruning(path):
    code = f"""
import poda, os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
def progress(event):
    if event["stage"] == "step":
        os.kill(os.getpid(), signal.SIGINT)
poda.prune({str(path)!r}, metric=lambda model: 1.0, max_drop=0.5, steps=1000, progress=progress)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=120, cwd=path.parent)
    assert child.returncode == -signal.SIGINT and b"KeyboardInterrupt" in child.stderr
