#!/usr/bin/env python3
"""Exports small untrained networks from JAX, TensorFlow, PaddlePaddle and scikit-learn, and runs them in ONNX Runtime.

Writes NAME.onnx and NAME.npz (arrays "in:INPUT", "out:OUTPUT") and keeps index.json, as export_zoo.py does.
Every framework needs its own packages besides onnx and onnxruntime: jax (jax, flax, jax2onnx), tensorflow
(tensorflow-cpu, tf2onnx), paddle (paddlepaddle, paddle2onnx), sklearn (scikit-learn, skl2onnx).
"""

import argparse
import json
import pathlib
import sys
import tempfile
import traceback

import numpy as np
import onnx
import onnxruntime


def noise(*shape):
    """Normal noise in steps of 1/32, which compresses well."""
    return (np.round(np.random.default_rng(1).standard_normal(shape) * 32) / 32).astype(np.float32)


def integers(high, *shape):
    return np.random.default_rng(1).integers(0, high, shape)


# Each function below yields triples: name, a function that returns the ONNX model, the feed in the order of the inputs.


def from_jax():
    """Flax modules through jax2onnx: dense, convolutional, residual, attention and recurrent."""
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jax2onnx import onnx_function, to_onnx

    class Mlp(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(48, 128, rngs=rngs), nnx.Linear(128, 10, rngs=rngs)
            self.norm = nnx.BatchNorm(128, use_running_average=True, rngs=rngs)

        def __call__(self, x):
            return nnx.softmax(self.last(nnx.gelu(self.norm(self.first(x)))))

    class Cnn(nnx.Module):
        def __init__(self, rngs):
            widths = [3, 32, 32, 64]
            self.convs = nnx.List(nnx.Conv(i, o, (3, 3), padding="SAME", rngs=rngs) for i, o in zip(widths, widths[1:]))
            self.norms = nnx.List(nnx.BatchNorm(o, use_running_average=True, rngs=rngs) for o in widths[1:])
            self.depthwise = nnx.Conv(64, 64, (3, 3), strides=2, feature_group_count=64, rngs=rngs)
            self.head = nnx.Linear(64, 10, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.norms[0](self.convs[0](x)))
            x = x + nnx.relu(self.norms[1](self.convs[1](x)))
            x = nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))
            x = nnx.silu(self.depthwise(nnx.relu(self.norms[2](self.convs[2](x)))))
            return self.head(jnp.mean(x, axis=(1, 2)))

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norms = nnx.List(nnx.LayerNorm(64, rngs=rngs) for _ in range(2))
            self.attention = nnx.MultiHeadAttention(4, 64, decode=False, rngs=rngs)
            self.up, self.down = nnx.Linear(64, 160, rngs=rngs), nnx.Linear(160, 64, rngs=rngs)

        def __call__(self, x):
            x = x + self.attention(self.norms[0](x))
            return x + self.down(nnx.gelu(self.up(self.norms[1](x))))

    @onnx_function
    class FunctionBlock(Block):
        pass

    class Transformer(nnx.Module):
        def __init__(self, rngs, block=Block):
            self.embed = nnx.Embed(100, 64, rngs=rngs)
            self.positions = nnx.Param(jax.random.normal(jax.random.key(0), (1, 12, 64)))
            self.blocks = nnx.List(block(rngs) for _ in range(2))
            self.head = nnx.Linear(64, 100, rngs=rngs)

        def __call__(self, tokens):
            x = self.embed(tokens) + self.positions[...]
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    class Recurrent(nnx.Module):
        def __init__(self, cell, rngs):
            self.cell, self.head = cell(24, 48, rngs=rngs), nnx.Linear(48, 5, rngs=rngs)
            self.pair = cell is nnx.LSTMCell

        def __call__(self, x):
            zero = jnp.zeros((x.shape[0], 48))
            carry, _ = jax.lax.scan(self.cell, (zero, zero) if self.pair else zero, jnp.swapaxes(x, 0, 1))
            return self.head(carry[1] if self.pair else carry)

    def attention(q, k, v):
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(16.0)
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(scores > -3, scores, -1e9), axis=-1), v)

    def entry(name, model, inputs, feed, **options):
        return name, lambda: to_onnx(model, inputs=inputs, model_name=name, **options), feed

    seed = nnx.Rngs(0)
    yield entry("jax_mlp", Mlp(seed), [("B", 48)], [noise(2, 48)])
    yield entry("jax_mlp_opset17", Mlp(seed), [("B", 48)], [noise(2, 48)], opset=17)
    yield entry("jax_cnn", Cnn(seed), [("B", 32, 32, 3)], [noise(2, 32, 32, 3)])
    yield entry("jax_cnn_nchw", Cnn(seed), [("B", 32, 32, 3)], [noise(2, 3, 32, 32)], inputs_as_nchw=[0])
    tokens = [jax.ShapeDtypeStruct((2, 12), jnp.int32)]
    yield entry("jax_transformer", Transformer(seed), tokens, [integers(100, 2, 12).astype(np.int32)])
    yield entry("jax_transformer_opset18", Transformer(seed), tokens, [integers(100, 2, 12).astype(np.int32)], opset=18)
    yield entry("jax_transformer_functions", Transformer(seed, FunctionBlock), tokens, [integers(100, 2, 12).astype(np.int32)])
    yield entry("jax_lstm", Recurrent(nnx.LSTMCell, seed), [(2, 7, 24)], [noise(2, 7, 24)])
    yield entry("jax_gru", Recurrent(nnx.GRUCell, seed), [(2, 7, 24)], [noise(2, 7, 24)])
    yield entry("jax_attention", attention, [("B", 9, 2, 16)] * 3, [noise(2, 9, 2, 16)] * 3)


def from_tensorflow():
    """Keras models through tf2onnx."""
    import keras
    import tensorflow as tf
    import tf2onnx
    from keras import layers

    keras.utils.set_random_seed(0)

    def tanh_gelu(x):
        """The exact form becomes Erfc, which tf2onnx does not know."""
        return keras.activations.gelu(x, approximate=True)

    def chain(shape, *parts, dtype="float32"):
        return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])

    def residual():
        start = keras.Input((32, 32, 3))
        x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False)(start)
        x = layers.ReLU(max_value=6.0)(layers.BatchNormalization()(x))
        y = layers.BatchNormalization()(layers.SeparableConv2D(32, 5, padding="same")(x))
        gate = layers.Dense(32, activation="sigmoid")(layers.Dense(8, activation="relu")(layers.GlobalAveragePooling2D()(y)))
        x = layers.Add()([x, layers.Multiply()([y, layers.Reshape((1, 1, 32))(gate)])])
        x = layers.Concatenate()([x, layers.MaxPooling2D(3, strides=1, padding="same")(x)])
        return keras.Model(start, layers.Dense(10, activation="softmax")(layers.Flatten()(x)))

    def transformer():
        start = keras.Input((12,), dtype="int32")
        x = layers.Embedding(100, 64)(start)
        for _ in range(2):
            y = layers.LayerNormalization()(x)
            x = layers.Add()([x, layers.MultiHeadAttention(4, 16)(y, y)])
            y = layers.Dense(160, activation=tanh_gelu)(layers.LayerNormalization()(x))
            x = layers.Add()([x, layers.Dense(64)(y)])
        return keras.Model(start, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))

    def unet():
        start = keras.Input((32, 32, 3))
        skip = layers.Conv2D(16, 3, padding="same", activation="relu")(start)
        x = layers.Conv2D(32, 3, padding="same", activation="elu")(layers.MaxPooling2D()(skip))
        up = layers.UpSampling2D(interpolation="bilinear")(x)
        learnt = layers.Conv2DTranspose(16, 3, strides=2, padding="same")(x)
        return keras.Model(start, layers.Conv2D(4, 1)(layers.Concatenate()([skip, up, learnt])))

    def entry(name, build, feed, opset=17):
        def convert():
            model = build()
            generator = np.random.default_rng(2)
            for layer in model._flatten_layers():
                if isinstance(layer, layers.BatchNormalization):
                    layer.momentum = 0.0
                    gamma, beta, *statistics = layer.get_weights()
                    layer.set_weights([generator.uniform(0.5, 1.5, gamma.shape), generator.normal(0, 0.1, beta.shape), *statistics])
            model(feed[0], training=True)  # sets the statistics of the batch norms
            signature = [tf.TensorSpec((None, *value.shape[1:]), value.dtype, name=f"input_{i}") for i, value in enumerate(feed)]
            function = tf.function(lambda x: model(x, training=False), input_signature=signature)
            return tf2onnx.convert.from_function(function, input_signature=signature, opset=opset)[0]

        return name, convert, feed

    applications = keras.applications
    yield entry("tf_mlp", lambda: chain((48,), layers.Dense(128, "relu"), layers.Dropout(0.2), layers.Dense(64, "tanh"), layers.Dense(10, "softmax")), [noise(2, 48)])
    yield entry("tf_residual", residual, [noise(2, 32, 32, 3)])
    yield entry("tf_residual_opset11", residual, [noise(2, 32, 32, 3)], 11)
    yield entry("tf_unet", unet, [noise(2, 32, 32, 3)])
    yield entry("tf_transformer", transformer, [integers(100, 2, 12).astype(np.int32)])
    yield entry("tf_lstm", lambda: chain((9, 24), layers.Bidirectional(layers.LSTM(48, return_sequences=True)), layers.LSTM(32), layers.Dense(5)), [noise(2, 9, 24)])
    yield entry("tf_gru", lambda: chain((9, 24), layers.GRU(48), layers.Dense(5)), [noise(2, 9, 24)])
    yield entry("tf_cnn_1d", lambda: chain((64, 8), layers.Conv1D(32, 5, padding="causal", dilation_rate=2, activation="swish"), layers.LayerNormalization(), layers.GlobalMaxPooling1D(), layers.Dense(4)), [noise(2, 64, 8)])
    yield entry("tf_mobilenet_v2", lambda: applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=20), [noise(2, 96, 96, 3)])
    yield entry("tf_mobilenet_v3", lambda: applications.MobileNetV3Small((96, 96, 3), alpha=0.75, weights=None, classes=20), [noise(2, 96, 96, 3)])
    yield entry("tf_efficientnet_v2_b0", lambda: applications.EfficientNetV2B0(weights=None, input_shape=(96, 96, 3), classes=20, include_preprocessing=False), [noise(2, 96, 96, 3)])
    yield entry("tf_densenet121", lambda: applications.DenseNet121(weights=None, input_shape=(96, 96, 3), classes=20), [noise(2, 96, 96, 3)])


def from_paddle():
    """Paddle layers through paddle2onnx."""
    import paddle
    from paddle import nn

    paddle.seed(0)

    class Recurrent(nn.Layer):
        def __init__(self, kind):
            super().__init__()
            self.recurrent, self.head = kind(24, 48, num_layers=1, direction="bidirect"), nn.Linear(96, 5)

        def forward(self, x):
            return self.head(self.recurrent(x)[0].mean(axis=1))

    class Transformer(nn.Layer):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(100, 64)
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 160, activation="gelu"), 2)
            self.head = nn.Linear(64, 10)

        def forward(self, tokens):
            return self.head(self.encoder(self.embed(tokens)).mean(axis=1))

    class Decoder(nn.Layer):
        def __init__(self):
            super().__init__()
            self.down, self.norm = nn.Conv2D(3, 32, 3, stride=2, padding=1), nn.BatchNorm2D(32)
            self.up, self.mix = nn.Conv2DTranspose(32, 16, 4, stride=2, padding=1), nn.Conv2D(48, 4, 1)

        def forward(self, x):
            small = nn.functional.hardswish(self.norm(self.down(x)))
            large = nn.functional.interpolate(small, size=[32, 32], mode="bilinear")
            return self.mix(paddle.concat([large, self.up(small)], axis=1))

    def entry(name, build, feed):
        def convert():
            model = build()
            generator = np.random.default_rng(2)
            for layer in model.sublayers():
                if isinstance(layer, nn.BatchNorm2D):
                    layer._momentum = 0.0
                    layer.weight.set_value(generator.uniform(0.5, 1.5, layer.weight.shape).astype(np.float32))
                    layer.bias.set_value(generator.normal(0, 0.1, layer.bias.shape).astype(np.float32))
            model(*map(paddle.to_tensor, feed))  # sets the statistics of the batch norms
            model.eval()
            signature = [paddle.static.InputSpec([-1, *value.shape[1:]], str(value.dtype), f"x{i}") for i, value in enumerate(feed)]
            with tempfile.TemporaryDirectory() as folder:
                paddle.onnx.export(model, f"{folder}/model", input_spec=signature, opset_version=17)
                return onnx.load(f"{folder}/model.onnx")

        return name, convert, feed

    models = paddle.vision.models
    yield entry("paddle_mlp", lambda: nn.Sequential(nn.Linear(48, 128), nn.ReLU(), nn.LayerNorm(128), nn.Linear(128, 10), nn.Softmax()), [noise(2, 48)])
    yield entry("paddle_lenet", lambda: models.LeNet(), [noise(2, 1, 28, 28)])
    yield entry("paddle_mobilenet_v3", lambda: models.mobilenet_v3_small(scale=0.75, num_classes=20), [noise(2, 3, 96, 96)])
    yield entry("paddle_mobilenet_v2", lambda: models.mobilenet_v2(scale=0.5, num_classes=20), [noise(2, 3, 96, 96)])
    yield entry("paddle_shufflenet_v2", lambda: models.shufflenet_v2_x0_5(num_classes=20), [noise(2, 3, 96, 96)])
    yield entry("paddle_resnet18", lambda: models.resnet18(num_classes=20), [noise(2, 3, 64, 64)])
    yield entry("paddle_squeezenet", lambda: models.squeezenet1_1(num_classes=20), [noise(2, 3, 96, 96)])
    yield entry("paddle_decoder", Decoder, [noise(2, 3, 32, 32)])
    yield entry("paddle_transformer", Transformer, [integers(100, 2, 12)])
    yield entry("paddle_lstm", lambda: Recurrent(nn.LSTM), [noise(2, 9, 24)])
    yield entry("paddle_gru", lambda: Recurrent(nn.GRU), [noise(2, 9, 24)])


def from_sklearn():
    """Multi-layer perceptrons of scikit-learn through skl2onnx; the classifiers need operators of ai.onnx.ml."""
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs = noise(400, 20)
    target = np.sin(inputs[:, 0]) + inputs[:, 1] * inputs[:, 2]
    labels = np.digitize(target, [-0.7, 0.7])

    def entry(name, estimator, goal, **options):
        def convert():
            estimator.fit(inputs, goal)
            return to_onnx(estimator, inputs[:1], options=options.get("options"), target_opset=options.get("opset"))

        return name, convert, [inputs[:8]]

    regressor = MLPRegressor(hidden_layer_sizes=(64, 32), max_iter=50, random_state=0)
    classifier = MLPClassifier(hidden_layer_sizes=(64, 32), activation="tanh", max_iter=50, random_state=0)
    plain = {"zipmap": False}
    yield entry("sklearn_regressor", regressor, target)
    yield entry("sklearn_regressor_opset13", regressor, target, opset=13)
    yield entry("sklearn_scaled_regressor", make_pipeline(StandardScaler(), regressor), target)
    yield entry("sklearn_classifier", classifier, labels, options={id(classifier): plain})
    yield entry("sklearn_classifier_zipmap", classifier, labels)


FRAMEWORKS = {"jax": from_jax, "tensorflow": from_tensorflow, "paddle": from_paddle, "sklearn": from_sklearn}


def make(name, convert, feed, outdir):
    """Converts, saves and runs one model; returns its record for the index."""
    record = {"name": name, "variant": name.split("_")[0]}
    path = outdir / f"{name}.onnx"
    try:
        model = convert()
        onnx.save(model, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        named = dict(zip([value.name for value in session.get_inputs()], feed))
        outputs = session.run(None, named)
        arrays = {f"in:{key}": value for key, value in named.items()}
        for info, value in zip(session.get_outputs(), outputs):
            if isinstance(value, np.ndarray):
                arrays[f"out:{info.name}"] = value
        np.savez_compressed(path.with_suffix(".npz"), **arrays)
        record |= {
            "file": path.name,
            "reference": path.with_suffix(".npz").name,
            "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
            "inputs": [{"name": value.name, "dtype": value.type, "shape": value.shape} for value in session.get_inputs()],
            "outputs": [{"name": value.name, "dtype": value.type, "shape": value.shape} for value in session.get_outputs()],
            "nodes": len(model.graph.node),
            "functions": len(model.functions),
            "bytes": path.stat().st_size,
            "output_deviation": float(np.std(outputs[0])) if isinstance(outputs[0], np.ndarray) else None,
        }
        print(f"{name}: {record['bytes'] / 1e6:.2f} MB, {record['nodes']} nodes, deviation {record['output_deviation']}", flush=True)
    except (Exception, SystemExit) as problem:  # paddle2onnx leaves by exit
        traceback.print_exc()
        record["error"] = f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
        print(f"FAILED {name}: {record['error']}", flush=True)
    return record


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=pathlib.Path, help="folder that receives the files")
    parser.add_argument("framework", choices=list(FRAMEWORKS), help="whose exporter to run")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only models whose name contains one of these")
    arguments = parser.parse_args()
    arguments.outdir.mkdir(parents=True, exist_ok=True)
    index_path = arguments.outdir / "index.json"
    index = json.loads(index_path.read_text()) if index_path.exists() else []
    records = {record["name"]: record for record in index}
    for name, convert, feed in FRAMEWORKS[arguments.framework]():
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        records[name] = make(name, convert, feed, arguments.outdir)
        index_path.write_text(json.dumps(list(records.values()), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
