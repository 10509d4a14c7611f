"""What a fresh process does with an exported model: write it as .tflite, run it, time it.

`process.call` executes this file by its path. It imports nothing of tfcompress, and each runtime only
where it is used, so that a .tflite file runs without waiting for TensorFlow.
"""

import contextlib
import ctypes
import importlib.metadata
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

OPS = pathlib.Path(__file__).parents[1] / "_native" / "libtfcompress_tf.so"  # where tfcompress._native has it
SIGNATURE = "serving_default"  # of files that the converter writes


def convert(folder: str, quantization: str | None, encodings: list[bool], samples: list, batch: int) -> dict:
    """Returns the .tflite file (bytes) of the SavedModel in `folder` for each encoding (sparse or not).

    `samples` are batches, as dicts of arrays by input name, with which int8 is calibrated, `batch`
    rows at a time.
    """
    return {
        sparse: _converter(folder, quantization, sparse, samples, batch).convert() for sparse in encodings
    }


def _converter(folder: str, quantization: str | None, sparse: bool, samples: list, batch: int) -> Any:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    wanted = {tf.lite.Optimize.DEFAULT: quantization, tf.lite.Optimize.EXPERIMENTAL_SPARSITY: sparse}
    converter.optimizations = [optimization for optimization, asked in wanted.items() if asked]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        converter.representative_dataset = lambda: (
            piece for sample in samples for piece in _pieces(sample, batch)
        )
    return converter


def quantize(content: bytes, quantization: str, samples: list, batch: int | None) -> bytes:
    """The float32 .tflite file in int8, by ai-edge-quantizer; inputs and outputs stay floats.

    `samples` as of `convert`, as many rows at a time as they have where `batch` is None. The range of a
    tensor is from the lowest to the highest over all of them: by itself it takes a moving average of batches,
    in which the first one counts most.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    recipes = {"dynamic_int8": recipe.dynamic_wi8_afp32, "int8": recipe.static_wi8_ai8}
    with contextlib.redirect_stdout(sys.stderr):
        made = quantizer.Quantizer(content, recipes[quantization]())
        if not made.need_calibration:
            return bytes(made.quantize().quantized_model)
        for ends in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            leave = algorithm_manager.AlgorithmName.NO_QUANTIZE
            made.update_quantization_recipe(".*", ends, algorithm_key=leave)
        pieces = [piece for sample in samples for piece in (_pieces(sample, batch) if batch else [sample])]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # LiteRT tells of memory
            found = [made.calibrate({SIGNATURE: [piece]}, num_threads=1) for piece in pieces]
        return bytes(made.quantize(_widest(found)).quantized_model)


def _widest(found: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Of ranges by tensor, what all lie in."""
    limits = {"min": np.minimum, "max": np.maximum}
    ranges = found[0]
    for others in found[1:]:
        for name, other in others.items():
            before = ranges.setdefault(name, other)
            ranges[name] = {
                key: limits[key](before[key], value) if key in limits else value
                for key, value in other.items()
            }
    return ranges


def run(runtime: str, path: str, batches: list, threads: int, delegate: Any = None) -> list:
    """The outputs of the model for each batch. A delegate is a library and its options."""
    model = RUNTIMES[runtime](path, threads, delegate)
    return [model(batch) for batch in batches]


def prove(
    runtime: str, path: str, batches: list, first: Any, threads: int, delegate: Any = None, **limits: Any
) -> dict:
    """The outputs for each batch, whether weights are stored sparse, and times for the batch `first`."""
    model = RUNTIMES[runtime](path, threads, delegate)
    outputs = [model(batch) for batch in batches]
    return {"outputs": outputs, "sparse": model.sparse, **_times([model], [model.timer(first)], **limits)}


def measure(
    runtime: str, paths: list, delegates: list, inputs: Any, batch: int, threads: int, **limits: Any
) -> dict:
    """Times for each of the models, run in turn; `inputs` is a batch, or None for made-up numbers."""
    pairs = zip(paths, delegates, strict=True)
    models = [RUNTIMES[runtime](path, threads, delegate) for path, delegate in pairs]
    timers = [model.timer(model.stub(batch) if inputs is None else inputs) for model in models]
    return _times(models, timers, **limits)


def _times(models: list, timers: list, repeats: int, warmup: int, seconds: float) -> dict:
    """Milliseconds per run, A B A B ...; it ends after `seconds`, though not before the third round."""
    for timer in timers * warmup:
        timer()
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < repeats and (len(rounds) < 3 or time.perf_counter() - start < seconds):
        rounds.append([timer() for timer in timers])
    return {"times_ms": [list(times) for times in zip(*rounds, strict=True)], "version": models[0].version}


class LiteRT:
    """A .tflite file with one signature, in the stock interpreter. Inputs and outputs go by name."""

    def __init__(self, path: str, threads: int, delegate: Any = None):
        from ai_edge_litert import interpreter

        delegates = [interpreter.load_delegate(*delegate)] if delegate else []
        self.interpreter = interpreter.Interpreter(
            model_path=path, num_threads=threads, experimental_delegates=delegates
        )
        self.inputs = self.interpreter.get_signature_runner().get_input_details()

    @property
    def version(self) -> str:
        return f"LiteRT {importlib.metadata.version('ai-edge-litert')}"

    @property
    def sparse(self) -> bool:
        return any(tensor["sparsity_parameters"] for tensor in self.interpreter.get_tensor_details())

    def __call__(self, inputs: Any) -> dict[str, np.ndarray]:
        """Runs a batch: a dict of arrays by name, or the array of the only input."""
        inputs = self._fitting(inputs)
        batch = next((int(detail["shape_signature"][0]) for detail in self.inputs.values()), -1)
        runner = self.interpreter.get_signature_runner()  # while it lives, the interpreter refuses invoke()
        outputs = [runner(**piece) for piece in (_pieces(inputs, batch) if batch > 0 else [inputs])]
        return {name: _joined([output[name] for output in outputs]) for name in outputs[0]}

    def timer(self, inputs: Any) -> Callable[[], float]:
        """A function that runs the batch once and returns the milliseconds that took."""
        inputs = self._fitting(inputs)
        places = {self.inputs[name]["index"]: array for name, array in inputs.items()}
        for place, array in places.items():
            self.interpreter.resize_tensor_input(place, array.shape)
        self.interpreter.allocate_tensors()

        def timed() -> float:
            for place, array in places.items():
                self.interpreter.set_tensor(place, array)
            start = time.perf_counter()
            self.interpreter.invoke()
            return 1000 * (time.perf_counter() - start)

        return timed

    def stub(self, batch: int) -> dict[str, np.ndarray]:
        return {
            name: _stub(
                name,
                [None if size < 0 else int(size) for size in detail["shape_signature"]],
                detail["dtype"],
                batch,
            )
            for name, detail in self.inputs.items()
        }

    def _fitting(self, inputs: Any) -> dict[str, np.ndarray]:
        return _by_name(inputs, {name: detail["dtype"] for name, detail in self.inputs.items()})


class SavedModel:
    """A SavedModel in TensorFlow, on the CPU. Outputs come as a flat list.

    A batch is a tuple, the arguments of the endpoint `serve`; or a dict of arrays by input name, or the
    array of the only input, for the signature `serving_default`.
    """

    sparse = False

    def __init__(self, path: str, threads: int, delegate: None = None):
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        _load_op(path, threads)
        self.model = tf.saved_model.load(path)
        self.version = f"TensorFlow {tf.__version__}"

    def __call__(self, inputs: Any) -> list[np.ndarray]:
        return [np.asarray(leaf) for leaf in _leaves(self._function(inputs)())]

    def timer(self, inputs: Any) -> Callable[[], float]:
        """A function that runs the batch once and returns the milliseconds that took."""
        function = self._function(inputs)

        def timed() -> float:
            start = time.perf_counter()
            for leaf in _leaves(function()):
                leaf.numpy()
            return 1000 * (time.perf_counter() - start)

        return timed

    def stub(self, batch: int) -> dict[str, np.ndarray]:
        return {
            name: _stub(name, spec.shape.as_list(), spec.dtype.as_numpy_dtype, batch)
            for name, spec in self._specs.items()
        }

    @property
    def _specs(self) -> dict[str, Any]:
        return self.model.signatures["serving_default"].structured_input_signature[1]

    def _function(self, inputs: Any) -> Callable[[], Any]:
        import tensorflow as tf

        if isinstance(inputs, tuple):
            arguments = tf.nest.map_structure(tf.constant, inputs)
            return lambda: self.model.serve(*arguments)
        types = {name: spec.dtype.as_numpy_dtype for name, spec in self._specs.items()}
        tensors = {name: tf.constant(array) for name, array in _by_name(inputs, types).items()}
        return lambda: self.model.signatures["serving_default"](**tensors)


def _load_op(path: str, threads: int) -> None:
    """Loads the native op of tfcompress if a SavedModel has it."""
    graph = pathlib.Path(path, "saved_model.pb")
    if graph.is_file() and b"TfcompressSparseConv2D" in graph.read_bytes():
        op_library(OPS).tfcompress_use_threads(threads=threads)


def op_library(file: pathlib.Path) -> Any:
    """The module of the native ops in a library."""
    import tensorflow as tf

    framework = pathlib.Path(tf.sysconfig.get_lib(), "libtensorflow_framework.so.2")
    if framework.is_file():  # TensorFlow 2.16, for one, does not show its C interface to what it loads
        ctypes.CDLL(str(framework), mode=ctypes.RTLD_GLOBAL)
    return tf.load_op_library(str(file))


RUNTIMES: dict[str, Any] = {"litert": LiteRT, "saved_model": SavedModel}


def _by_name(inputs: Any, types: dict[str, Any]) -> dict[str, np.ndarray]:
    """The inputs as a dict of arrays of these types; there may be a single array if one is wanted."""
    if not isinstance(inputs, dict) and len(types) == 1:
        inputs = {next(iter(types)): inputs}
    if not isinstance(inputs, dict) or set(inputs) != set(types):
        given = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        raise ValueError(f"the file has the inputs {sorted(types)}, got {given}")
    return {name: np.asarray(array, types[name]) for name, array in inputs.items()}


def _pieces(inputs: dict[str, np.ndarray], rows: int) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(next(iter(inputs.values()))), rows):
        yield {name: array[start : start + rows] for name, array in inputs.items()}


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _leaves(structure: Any) -> list:
    if isinstance(structure, dict):
        structure = [structure[key] for key in sorted(structure)]
    if isinstance(structure, (list, tuple)):
        return [leaf for part in structure for leaf in _leaves(part)]
    return [structure]


def _stub(name: str, shape: list[int | None], dtype: Any, batch: int) -> np.ndarray:
    """Numbers to time a model with: normal ones, zeros where integers are wanted."""
    if shape and shape[0] not in (None, batch):
        raise ValueError(f"input '{name}' takes batches of {shape[0]}, not of {batch}")
    if None in shape[1:]:
        raise ValueError(f"the shape of input '{name}' is open, {tuple(shape)}: give arrays for it, data=...")
    sizes: Any = [batch, *shape[1:]] if shape else []
    if np.issubdtype(dtype, np.floating):
        return np.random.default_rng(0).normal(size=sizes).astype(dtype)
    return np.zeros(sizes, dtype)
