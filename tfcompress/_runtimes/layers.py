"""What a process does that times single layers in LiteRT; `process.Server` executes this file by its path.

It imports nothing of tfcompress.
"""

import importlib.metadata
import statistics
import time
from typing import Any

import numpy as np


def version() -> str:
    return f"LiteRT {importlib.metadata.version('ai-edge-litert')}"


def median_ms(layer: dict, shape: tuple, threads: int, repeats: int, warmup: int, seconds: float) -> float:
    """Milliseconds of one run of a layer on one image.

    Args:
        layer: a stock Keras layer, serialised.
        shape: of its input, without the batch.
        threads: how many LiteRT may use.
        repeats: how many runs are timed, unless `seconds` pass before, though three at least.
        warmup: how many go before them.
        seconds: see `repeats`.
    """
    interpreter = _interpreter(_converted(layer, shape), threads)
    (detail,) = interpreter.get_input_details()
    interpreter.set_tensor(
        detail["index"], np.random.default_rng(0).normal(size=detail["shape"]).astype("float32")
    )
    for _ in range(warmup):
        interpreter.invoke()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < repeats and (len(times) < 3 or time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        interpreter.invoke()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def _converted(config: dict, shape: tuple) -> bytes:
    import keras
    import tensorflow as tf

    layer = keras.layers.deserialize(config)
    layer.build((1, *shape))
    function = tf.function(layer, input_signature=[tf.TensorSpec((1, *shape), "float32")])
    concrete = function.get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], layer).convert()


def _interpreter(content: bytes, threads: int) -> Any:
    from ai_edge_litert import interpreter

    made = interpreter.Interpreter(model_content=content, num_threads=threads)
    made.allocate_tensors()
    return made
