"""Training that knows of int8, by tensorflow-model-optimization, for Keras 3 models."""

import dataclasses
import tempfile
import warnings
from typing import Any

import keras
import numpy as np

from tfcompress import _calls, _cloning, _kernels
from tfcompress._arrays import to_numpy
from tfcompress._runtimes import conversion, process
from tfcompress._runtimes.signature import Signature, named_outputs
from tfcompress.export import legacy, verify
from tfcompress.export.report import ExportReport
from tfcompress.export.tflite import _cause, _checked_path
from tfcompress.export.verify import ExportError

FEW = 4095  # values of a kernel, at most, that are taken for shared ones
_SPLIT = ("SeparableConv1D", "SeparableConv2D")


class QuantizationAware:
    """A model that is trained with weights and activations as int8 will have them (Jacob et al. 2018).

    A twin of the model is built in tf_keras and given to tensorflow-model-optimization (tfmot), which puts
    fake quantization into it: values are rounded to 256 levels on the way forwards, and gradients pass as if
    they were not. Compile and train the twin here, take the weights back into a Keras 3 model, and write the
    file with the ranges that were learned.

    What the stages before have won stays: after every batch weights that were zero are zero again, and
    weights that shared a value have the mean of theirs. That is projected gradient descent; tfmot has schemes
    of its own for it, which know fewer layers.

    Args:
        model: a built functional or Sequential model of stock layers, nested models among them, without
            masks or shared values; `strip` it. It is not changed, and each object has a twin of its own.

    Attributes:
        model: the twin, with fake quantization: a model of tf_keras.
        left_alone: path -> why this layer is trained in float. Its activations stay so in the file; the
            converter may store its weights in int8 all the same.

    Raises:
        ImportError: tf_keras or tfmot is not installed.
        ValueError: tf_keras lacks parts of the model; the message lists all of them.

    Example:
        aware = tfcompress.export.QuantizationAware(model)
        aware.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        aware.fit(x, y, epochs=2)
        aware.tflite("model.tflite", data=x[:200])
        model = aware.trained()
    """

    def __init__(self, model: keras.Model):
        conversion.check_backend()
        self._twin = legacy.twin(model)
        self.left_alone = _left_alone(self._twin)
        self.model = _quantizing(self._twin, self.left_alone)
        self._weights = _weights(self._twin, self.model)
        self._kept = _kept(self._twin, self._weights)

    def compile(self, optimizer: Any, loss: Any, **settings: Any) -> None:
        """As `keras.Model.compile`, by names or with what tf_keras has."""
        given = (optimizer, loss, *settings.values())
        if any(type(one).__module__.startswith("keras.") for one in keras.tree.flatten(given)):
            raise ValueError(
                "The twin is trained by tf_keras: name optimizer, loss and metrics, such as 'adam', or take "
                "those of tf_keras."
            )
        self.model.compile(optimizer, loss, **settings)

    def fit(self, *args: Any, callbacks: Any = (), **settings: Any) -> dict[str, list[float]]:
        """As `keras.Model.fit`; returns the history."""
        import tf_keras

        hold = tf_keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: self._hold())
        history = self.model.fit(*args, callbacks=[hold, *callbacks], **settings)
        self._hold()
        return history.history

    def trained(self) -> keras.Model:
        """A copy of the model with the weights that the twin has by now, not quantized."""
        new = _cloning.clone(self._twin.original)
        for path, operation in _calls.walk(new):
            for weight, theirs in zip(
                getattr(operation, "weights", []), self._weights.get(path, []), strict=False
            ):
                weight.assign(theirs.numpy())
        return new

    def tflite(self, path: Any, *, data: Any = None, tolerance: float | None = None) -> ExportReport:
        """Writes the file with weights and activations in int8, where they were trained so, and runs it.

        It is compared with the twin, which rounds as the file does; see `export.tflite` for the rest.

        Raises:
            ValueError: see `export.tflite`.
            ExportError: the file cannot be written, does not run, or differs.
        """
        path = _checked_path(path)
        original = self._twin.original
        plain = verify.reference(original, data=data, tolerance=tolerance, quantization="int8")
        outputs = [self._outputs(plain.signature, batch) for batch in plain.batches]
        expected = dataclasses.replace(plain, outputs=outputs)
        with verify.staged(path) as temporary:
            temporary.write_bytes(self._converted(plain.signature))
            proof = verify.prove(temporary, "litert", expected)
            facts = {"format": "tflite", "quantization": "int8"}
            report = ExportReport.of(original, path, temporary, expected, proof, **facts)
            temporary.replace(path)
        return report

    def _outputs(self, signature: Signature, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self.model([arrays[name] for name in signature.specs], training=False)
        structure = keras.tree.pack_sequence_as(_structure(self._twin.original), keras.tree.flatten(outputs))
        return {name: np.asarray(tensor) for name, tensor in named_outputs(structure).items()}

    def _converted(self, signature: Signature) -> bytes:
        import tensorflow as tf

        specs = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in signature.specs.items()]

        def serve(*tensors: Any) -> dict[str, Any]:
            outputs = keras.tree.flatten(self.model(list(tensors), training=False))
            return named_outputs(keras.tree.pack_sequence_as(_structure(self._twin.original), outputs))

        module = tf.Module()
        module.model, module.serve = self.model, tf.function(serve, input_signature=specs)
        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(module, folder, signatures=module.serve.get_concrete_function())
            options: dict = {"quantization": "dynamic_int8", "encodings": [False], "samples": [], "batch": 1}
            try:
                return process.call(
                    conversion.CHILD, "convert", warm=conversion.WARM, folder=folder, **options
                )[False]
            except process.ChildError as error:
                name = self._twin.original.name
                raise ExportError(f"'{name}' cannot be converted to TFLite: {_cause(str(error))}.") from error

    def _hold(self) -> None:
        for variable, codes in self._kept:
            variable.assign(_projected(variable, codes))


# ------------------------------------------------------------------ the twin


def _tfmot() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow_model_optimization as tfmot
    except ImportError as error:
        raise ImportError(f"This needs tensorflow-model-optimization: {legacy.EXTRA}.") from error
    return tfmot.quantization.keras


def _left_alone(twin: legacy.Twin) -> dict[str, str]:
    """Path -> why tfmot cannot quantize this layer."""
    reasons: dict[str, str | None] = {}
    for batch_norms in (False, True):  # these last: what becomes of them depends on the layer before
        for path, layer in twin.layers.items():
            if _is_batch_norm(layer) is batch_norms:
                reasons[path] = _reason([*_taken_with(layer, twin, reasons), layer])
    return {path: reason for path in twin.layers if (reason := reasons[path])}


def _is_batch_norm(layer: Any) -> bool:
    import tf_keras

    return isinstance(layer, tf_keras.layers.BatchNormalization)


def _taken_with(layer: Any, twin: legacy.Twin, reasons: dict[str, str | None]) -> list[Any]:
    """The layer before a batch norm that nothing else reads: tfmot takes the two as one."""
    import tf_keras

    if not _is_batch_norm(layer) or len(layer.inbound_nodes) != 1:
        return []
    before = layer.inbound_nodes[0].inbound_layers
    alone = len(before.inbound_nodes) == len(before.outbound_nodes) == 1
    quantized = any(twin.layers[path] is before and reason is None for path, reason in reasons.items())
    return [before] if alone and quantized and not isinstance(before, tf_keras.layers.InputLayer) else []


def _reason(chain: list[Any]) -> str | None:
    """Of the last of these layers; found by a try: which ones it takes is told nowhere."""
    import tf_keras

    if isinstance(chain[-1], tf_keras.layers.InputLayer):
        return None
    if type(chain[-1]).__name__ in _SPLIT:
        return "tfmot makes two layers of it, from which weights do not come back"
    x = [tf_keras.Input(one.shape[1:], dtype=one.dtype) for one in keras.tree.flatten(chain[0].input)]
    inputs = x = x if len(x) > 1 else x[0]
    for layer in chain:
        x = _tfmot().quantize_annotate_layer(type(layer).from_config(layer.get_config()))(x)
    try:
        _tfmot().quantize_apply(tf_keras.Model(inputs, x))
    except (RuntimeError, ValueError, TypeError) as error:
        return " ".join(str(error).split())[:200]
    return None


def _quantizing(twin: legacy.Twin, left_alone: dict[str, str]) -> Any:
    """The twin with fake quantization around all layers that can have it."""
    import tf_keras

    names = {twin.layers[path].name for path in left_alone}

    def annotated(layer: Any) -> Any:
        if layer.name in names or isinstance(layer, tf_keras.layers.InputLayer):
            return layer
        return _tfmot().quantize_annotate_layer(layer)

    model = tf_keras.models.clone_model(twin.model, clone_function=annotated)
    model.set_weights(twin.model.get_weights())
    return _tfmot().quantize_apply(model)


def _weights(twin: legacy.Twin, quantizing: Any) -> dict[str, list[Any]]:
    """Path -> the variables of the quantizing model that hold the layer's weights, in their order."""
    named = {variable.name: variable for variable in quantizing.variables}
    return {path: [named[weight.name] for weight in layer.weights] for path, layer in twin.layers.items()}


def _structure(model: keras.Model) -> Any:
    return model.outputs[0] if isinstance(model, keras.Sequential) else model.output


# ------------------------------------------------------------------ what stays


def _kept(twin: legacy.Twin, weights: dict[str, list[Any]]) -> list[tuple[Any, np.ndarray]]:
    """Variables of kernels with zeros or shared values, and the number of each entry's value; 0 for zero."""
    found = []
    for path, operation in _calls.walk(twin.original):
        if path not in weights:
            continue
        kernels = {id(weight) for weight, _ in _kernels.kernels(operation)}
        for weight, theirs in zip(operation.weights, weights[path], strict=True):
            codes = _codes(to_numpy(weight)) if id(weight) in kernels else None
            if codes is not None:
                found.append((theirs, codes))
    return found


def _codes(kernel: np.ndarray) -> np.ndarray | None:
    """`(entries,)`: 0 for zero, else the number of its value; each its own where values are not shared."""
    flat = kernel.ravel()
    values, codes = np.unique(flat, return_inverse=True)
    codes = np.where(flat == 0, 0, codes + 1)
    live = int(np.count_nonzero(flat))
    if len(values) <= min(FEW, live // 2) or live < len(flat):
        return codes.astype("int32")
    return None


def _projected(variable: Any, codes: np.ndarray) -> Any:
    """Zero where it was, and elsewhere the mean over the entries of a number."""
    import tensorflow as tf

    means = tf.math.unsorted_segment_mean(tf.reshape(variable, [-1]), codes, int(codes.max()) + 1)
    means = tf.concat([tf.zeros(1), means[1:]], 0)
    return tf.reshape(tf.gather(means, codes), variable.shape)
