"""Pruned convolutions and networks in LiteRT, with our delegate and without it, which is XNNPACK.

    python custom_ops/bench/bench_sparse.py [--layers] [--models] [--threads 1] [--out FILE.json]

Single layers are .tflite files of one convolution with ReLU, NHWC in and out, in int8 from end to end where
that is asked for; networks are those of keras.applications at 224 x 224. Weights that stay are at random
places (`--block 16`: blocks of 16 neighbouring filters are; `--block 0`: whole columns of the kernel, of all
filters; `--inputs 4`: of so many neighbouring input channels). `--dtype int8` takes files in int8, against
XNNPACK in int8, and with `--without-amx` neither has AMX, as on most processors. In one process both
interpreters run in turn, A B A B ..., and a figure is the median over rounds of the ratio of their times in
that round; with more than one thread each runs for a while before it is timed. Beside it: TensorFlow's dense
convolution (oneDNN), and what bounds any convolution, so that a layer's distance from it shows:
`compute_us`, the multiplications that are left at the peak that the processor reached just then, and
`copy_us`, a copy of as many bytes as input and output have, in turn with the rest. Layers in float32 are
forced upon the delegate, networks and what is in int8 are not.
"""

import argparse
import functools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--layers", action="store_true", help="only layers")
ARGUMENTS.add_argument("--models", action="store_true", help="only networks")
ARGUMENTS.add_argument("--threads", type=int, default=1)
ARGUMENTS.add_argument("--rounds", type=int, default=31)
ARGUMENTS.add_argument("--sparsities", type=float, nargs="+", default=[0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
ARGUMENTS.add_argument("--block", type=int, default=1, help="filters that are pruned together; 0 for all")
ARGUMENTS.add_argument("--inputs", type=int, default=1, help="input channels that are pruned together")
ARGUMENTS.add_argument("--dtype", choices=["float32", "int8"], default="float32")
ARGUMENTS.add_argument("--without-amx", action="store_true")
ARGUMENTS.add_argument("--names", nargs="+", help="of networks, or parts of names of layers")
ARGUMENTS.add_argument(
    "--files", type=Path, help="a folder that keeps what was converted to int8, for the next run"
)
ARGUMENTS.add_argument("--out", type=Path, help="else a file in results/, named by what is asked for")
if __name__ == "__main__":
    OPTIONS = ARGUMENTS.parse_args()
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(OPTIONS.threads)
    if OPTIONS.without_amx:
        import without_amx

        without_amx.forbid()
        os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()  # what was measured of this machine is another's
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "benchmarks"))
from measure import save  # noqa: E402

import tfcompress  # noqa: E402
from tfcompress import ops  # noqa: E402

MODELS: dict[str, dict[str, Any]] = {
    "ResNet50": {},
    "VGG16": {"include_top": False},
    "MobileNet": {},
    # No kernel and no choice was tuned on these:
    "MobileNetV2": {},
    "MobileNetV3Small": {},
    "EfficientNetB0": {},
    "DenseNet121": {},
    "InceptionV3": {},
    "Xception": {},
}
MOST_SECONDS = 20.0  # for the rounds of one figure
LEAST_ROUNDS = 5
SETTLE_SECONDS = 0.05


def main() -> None:
    everything = not (OPTIONS.layers or OPTIONS.models)
    content = {
        "dtype": OPTIONS.dtype,
        "block": OPTIONS.block,
        "inputs": OPTIONS.inputs,
        "threads": OPTIONS.threads,
        "rounds": OPTIONS.rounds,
        "litert": litert_version(),
    }
    content |= {"kernels": ops.kernels(OPTIONS.dtype), "peak_gflops": [peak()]}
    if everything or OPTIONS.layers:
        content["layers"] = list(layers())
        content["geometric_means"] = geometric_means(content["layers"])
        print_table("geometric means", content["geometric_means"])
    if everything or OPTIONS.models:
        content["models"] = list(models())
    content["peak_gflops"].append(peak())
    out = OPTIONS.out or Path(__file__).with_name("results") / file_name()
    save(out.stem, content, out.parent)


def file_name() -> str:
    """What is asked for, as a name."""
    pattern = f"{OPTIONS.block}-{OPTIONS.inputs}"
    in_float32 = "sparse" if pattern == "1-1" else f"block-{pattern.removesuffix('-1')}"
    parts = [in_float32 if OPTIONS.dtype == "float32" else f"int8-{pattern}"]
    if OPTIONS.without_amx:
        parts.append("without-amx")
    if OPTIONS.threads > 1:
        parts.append(f"{OPTIONS.threads}-threads")
    return "-".join(parts) + ".json"


# ------------------------------------------------------------------ layers


def layers() -> Any:
    shapes = json.loads(Path(__file__).with_name("shapes.json").read_text())
    for group, members in shapes.items():
        for name, size, channels, filters, kernel, stride in members:
            if OPTIONS.names and not any(part in name for part in OPTIONS.names):
                continue
            x = keras.Input((size, size, channels))
            layer = keras.layers.Conv2D(filters, kernel, strides=stride, padding="same", activation="relu")
            model = keras.Model(x, layer(x))
            facts = {"group": group, "name": name, "shape": [size, channels, filters, kernel, stride]}
            flops = 2 * kernel**2 * channels * filters * model.output_shape[1] * model.output_shape[2]
            yield facts | {
                "rows": [layer_row(name, model, flops, sparsity) for sparsity in OPTIONS.sparsities]
            }
            print(name, *(f"{row['sparsity']:.0%}:{row['speedup']:.2f}" for row in LAST), flush=True)


LAST: list[dict] = []


def layer_row(name: str, model: keras.Model, flops: float, sparsity: float) -> dict:
    if sparsity == OPTIONS.sparsities[0]:
        LAST.clear()
    x, in_int8 = images(model), OPTIONS.dtype == "int8"
    if in_int8:
        x = np.clip(32 * x, -128, 127).astype("int8")
    if in_int8:
        content = kept(f"{name} {sparsity:.0%}", functools.partial(int8_layer, model, sparsity))
    else:
        content = thinned(dense_file(model), sparsity)
    stock, ours = runner(content, x), runner(content, x, force=not in_int8)
    check(stock, ours)
    others = [] if in_int8 else [tensorflow_runner(model, x)]
    times = in_turn([stock[1], ours[1], copying(model), *others])
    row = {"sparsity": sparsity} | figures(times[0], times[1])
    if not in_int8:
        row["tensorflow_us"] = microseconds(times[3])
    row["compute_us"] = round(1e-3 * (1 - sparsity) * flops / (peak() * OPTIONS.threads), 1)
    row["copy_us"] = microseconds(times[2])
    LAST.append(row)
    return row


def copying(model: keras.Model) -> Callable[[], None]:
    """Reads and writes as many bytes as the input and the output have, on one thread."""
    entries = sum(map(math.prod, (model.input_shape[1:], model.output_shape[1:])))
    halves = np.ones((2, entries // 2), OPTIONS.dtype)
    return lambda: np.copyto(*halves)


def tensorflow_runner(model: keras.Model, x: np.ndarray) -> Callable[[], None]:
    function, tensor = tf.function(model), tf.constant(x)
    return lambda: function(tensor).numpy()


def geometric_means(found: list[dict]) -> list[dict]:
    means = []
    for group in dict.fromkeys(layer["group"] for layer in found):
        mine = [layer for layer in found if layer["group"] == group]
        for place, sparsity in enumerate(OPTIONS.sparsities):
            speedups = [layer["rows"][place]["speedup"] for layer in mine]
            mean = float(np.exp(np.mean(np.log(speedups))))
            means.append({"name": group, "sparsity": sparsity, "speedup": mean, "least": min(speedups)})
    return means


# ------------------------------------------------------------------ networks


def models() -> Any:
    for name, arguments in MODELS.items():
        if OPTIONS.names and name not in OPTIONS.names:
            continue
        model = getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3), **arguments)
        x, in_int8 = images(model), OPTIONS.dtype == "int8"
        content = b"" if in_int8 else dense_file(model)
        for sparsity in OPTIONS.sparsities:
            pruned = (
                kept(f"{name} {sparsity:.0%}", functools.partial(int8_network, model, sparsity))
                if in_int8
                else thinned(content, sparsity)
            )
            stock, ours = runner(pruned, x), runner(pruned, x, force=False)
            check(stock, ours)
            row = {"name": name, "sparsity": sparsity} | figures(*in_turn([stock[1], ours[1]]))
            print(
                name,
                f"{sparsity:.0%}",
                f"{row['speedup']:.2f}",
                row["xnnpack_us"],
                row["ours_us"],
                flush=True,
            )
            yield row


# ------------------------------------------------------------------ what both need


def dense_file(model: keras.Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        model.export(str(path), format="litert", verbose=False)
        return path.read_bytes()


def kept(name: str, convert: Callable[[], bytes]) -> bytes:
    """What an earlier run with the same blocks has converted, if files are kept."""
    if OPTIONS.files is None:
        return convert()
    file = OPTIONS.files / f"{OPTIONS.block}-{OPTIONS.inputs}" / f"{name}.tflite"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        written = file.with_suffix(".new")
        written.write_bytes(convert())
        written.replace(file)
    return file.read_bytes()


def int8_network(model: keras.Model, sparsity: float) -> bytes:
    thin(model, sparsity)
    images = np.random.default_rng(1).normal(size=(8, *model.input_shape[1:])).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        report = tfcompress.export.tflite(
            model,
            Path(folder, "model.tflite"),
            quantization="int8",
            representative_data=images,
            sparse_encoding=False,
            tolerance=math.inf,  # nothing was trained
        )
        return report.path.read_bytes()


def thin(model: keras.Model, sparsity: float, seed: int = 0) -> None:
    """Gives it weights at random, of which so many are zero, block by block, where blocks divide a kernel."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if not isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)) or layer.kernel.shape[-2] < 4:
            continue
        *taps, channels, filters = layer.kernel.shape
        inputs = OPTIONS.inputs if channels % OPTIONS.inputs == 0 else 1
        together = OPTIONS.block or filters
        together = together if filters % together == 0 else 1
        stays = rng.random((*taps, channels // inputs, filters // together)) >= sparsity
        stays = np.repeat(np.repeat(stays, inputs, -2), together, -1)
        scale = np.sqrt(2 / (math.prod(taps) * channels * max(1 - sparsity, 1e-3)))
        layer.kernel.assign(rng.normal(size=stays.shape) * scale * stays)


def thinned(content: bytes, sparsity: float, seed: int = 0) -> bytes:
    """The file with other weights, of which so many are zero: only its numbers change.

    They are drawn so that activations neither grow nor vanish through a deep network.
    """
    rng, changed = np.random.default_rng(seed), bytearray(content)
    interpreter = Interpreter(model_content=content)
    for detail in interpreter.get_tensor_details():
        if len(detail["shape"]) not in (2, 4) or detail["dtype"] is not np.float32:
            continue
        try:
            weights = interpreter.get_tensor(detail["index"])
        except ValueError:  # it is not a constant
            continue
        at = content.find(weights.tobytes()) if weights.size > 256 else -1
        if at < 0 or not weights.any():
            continue
        depth = (
            weights[0].size if weights.shape[0] > 1 else int(np.prod(weights.shape[1:-1]))
        )  # depthwise: 1 first
        together = OPTIONS.block or weights.shape[0]
        blocks = -(-weights.shape[0] // together), *weights.shape[1:]
        stays = rng.random(blocks) >= (sparsity if weights.shape[0] > 1 else 0)
        stays = np.repeat(stays, together, axis=0)[: weights.shape[0]]
        share = max(1 - sparsity if weights.shape[0] > 1 else 1, 1e-3)
        new = rng.normal(size=weights.shape) * np.sqrt(2 / (depth * share)) * stays
        changed[at : at + weights.nbytes] = new.astype("float32").tobytes()
    return bytes(changed)


def int8_layer(model: keras.Model, sparsity: float) -> bytes:
    """From int8 to int8, as in the middle of a network; files for users take and return floats."""
    thin(model, sparsity)
    examples = np.random.default_rng(1).normal(size=(8, 1, *model.input_shape[1:])).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([example] for example in examples)
        converter.inference_input_type = converter.inference_output_type = tf.int8
        return converter.convert()


def images(model: keras.Model) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, *model.input_shape[1:])).astype("float32")


def runner(content: bytes, x: np.ndarray, **delegate: Any) -> tuple[Any, Callable[[], None]]:
    delegates = [tfcompress.load_delegate(**delegate)] if delegate else []
    interpreter = Interpreter(
        model_content=content, num_threads=OPTIONS.threads, experimental_delegates=delegates
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    return interpreter, interpreter.invoke


def check(stock: Any, ours: Any) -> None:
    """The outputs are the same, so that what is timed is the same work."""
    found = []
    for interpreter, invoke in (stock, ours):
        invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    error = np.abs(found[0] - found[1]).max() / max(np.abs(found[0]).max(), 1e-30)
    most = 0 if OPTIONS.dtype == "int8" else 1e-3
    assert error <= most, f"outputs differ by {error}"


def in_turn(calls: list[Callable[[], None]]) -> list[list[float]]:
    """Seconds of each, round by round, after one round that is not counted."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    start = time.perf_counter()
    while len(times[0]) < OPTIONS.rounds:
        if len(times[0]) >= LEAST_ROUNDS and time.perf_counter() - start > MOST_SECONDS:
            break
        for call, mine in zip(calls, times, strict=True):
            settle(call)
            begin = time.perf_counter()
            call()
            mine.append(time.perf_counter() - begin)
    return times


def settle(call: Callable[[], None]) -> None:
    """Calls until threads of whoever was called before sleep: before that they wait on a processor."""
    end = time.perf_counter() + (SETTLE_SECONDS if OPTIONS.threads > 1 else 0)
    while time.perf_counter() < end:
        call()


def figures(stock: list[float], ours: list[float]) -> dict:
    ratios = np.divide(stock, ours)
    low, middle, high = np.percentile(ratios, [10, 50, 90])
    return {
        "speedup": float(middle),
        "p10": float(low),
        "p90": float(high),
        "xnnpack_us": microseconds(stock),
        "ours_us": microseconds(ours),
    }


def microseconds(times: list[float]) -> float:
    return round(1e6 * statistics.median(times), 1)


def peak() -> float:
    """Billions of multiplications and additions in a second on one thread, as the core measures now."""
    return 2e-9 * ops.cost.measure(OPTIONS.dtype).dense


def litert_version() -> str:
    import importlib.metadata

    return importlib.metadata.version("ai-edge-litert")


def print_table(title: str, rows: list[dict]) -> None:
    print(title)
    for row in rows:
        print(f"  {row['name']:40} {row['sparsity']:.0%} {row['speedup']:.2f} (least {row['least']:.2f})")


if __name__ == "__main__":
    main()
