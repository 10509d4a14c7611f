"""Compute convolutions only with the weights that pruning has left."""

from dataclasses import dataclass
from typing import Any

import keras

from tfcompress import _calls, analysis, channels
from tfcompress._arrays import to_numpy
from tfcompress._names import Patterns
from tfcompress.analysis.steps import InputShape, replay
from tfcompress.channels import visits
from tfcompress.layers import SparseConv2D
from tfcompress.layers.masked import is_masked
from tfcompress.layers.sparse_conv import unsuited
from tfcompress.ops import cost
from tfcompress.pruning.replaced import Replaced, exchange

analysis.register(SparseConv2D, analysis.MacRule({"values": analysis.at_outputs}))
channels.register(
    SparseConv2D, lambda v: visits.opaque(v, f"'{v.path}' is sparse; remove channels before sparsify()")
)


@dataclass(frozen=True)
class Sparsified(Replaced):
    """Which layers a `sparsify` replaced, and which not. Print it for a table."""

    title = "Sparse kernels"


def sparsify(
    model: keras.Model,
    *,
    include: Patterns = None,
    exclude: Patterns = None,
    input_shape: InputShape | None = None,
    force: bool = False,
) -> keras.Model:
    """Returns a copy in which layers whose kernels have enough zeros compute only with the others.

    Magnitude pruning leaves kernels with zeros here and there, at which dense convolutions multiply like
    anywhere else. `layers.SparseConv2D` takes the place of Conv2D and Dense layers, with equal outputs, where
    `ops.predict` says that it is faster on one thread of this machine, for one image, than the dense
    convolution of XNNPACK, which itself is faster than TensorFlow's. Without the native library nothing is.
    Take masks off first, by `strip`, and channels that can be removed whole, by `remove_zeroed`: the channels
    around a sparse layer stay as they are.

    The attribute `sparsified` of the result says which layers were replaced and why others were not. The copy
    can be trained on; what is zero stays zero. The optimizer's slots of replaced kernels begin anew; all
    others are carried over. Regularizers and constraints of replaced layers have done their work, and are
    gone. `tfcompress.densify` leads back.

    Args:
        model: a built functional or Sequential model. It is not changed.
        include: layer names or regular expressions; only these layers.
        exclude: likewise, not those.
        input_shape: the size of one image without batch axis, or a list, one for each of `model.inputs`,
            to be fast at. Needed where the model leaves its size open: without it layers stay dense.
        force: replace every layer that has zeros, whatever the cost model says.

    Raises:
        ValueError: the model is subclassed or unbuilt, has masks, a name is unknown, or the size does not
            fit.

    >>> x = keras.Input((8, 8, 3))
    >>> conv = keras.layers.Conv2D(4, 1, name="stem")
    >>> model = keras.Model(x, conv(x))
    >>> conv.kernel.assign(keras.ops.eye(3, 4)[None, None]).shape
    TensorShape([1, 1, 3, 4])
    >>> small = sparsify(model, force=True)
    >>> small.sparsified.layers, analysis.macs(small) / analysis.macs(model) == 3 / 12
    ({'stem': (12, 3)}, True)
    """
    _calls.check_functional(model)
    _refuse_masks(model)
    maps = {} if force else _maps(model, input_shape)

    def make(path: str, layer: Any) -> SparseConv2D | str:
        reason = unsuited(layer) or _without_zeros(layer) or ("" if force else _slower(layer, maps.get(path)))
        return reason or SparseConv2D.from_conv(layer)

    small, report = exchange(model, make, include, exclude, Sparsified)
    small.sparsified = report
    return small


def _refuse_masks(model: keras.Model) -> None:
    masked = [
        path
        for path, layer in _calls.walk(model)
        if isinstance(layer, keras.layers.Layer) and is_masked(layer)
    ]
    if masked:
        raise ValueError(
            f"'{masked[0]}' is masked, and its mask may still change. Make masks final with "
            "tfcompress.strip(model), or tfcompress.release(model), and sparsify what comes back."
        )


def _maps(model: keras.Model, input_shape: InputShape | None) -> dict[str, list[tuple]]:
    """Layer path -> the shapes it is called on; nothing where the model leaves its size open."""
    if input_shape is None and any(None in tensor.shape[1:] for tensor in model.inputs):
        return {}
    found: dict[str, list[tuple]] = {}
    for step in replay(model, input_shape).steps:
        found.setdefault(step.path, []).extend(tensor.shape for tensor in step.inputs[:1])
    return found


def _without_zeros(layer: Any) -> str:
    return "" if (to_numpy(layer.kernel) == 0).any() else "it has no zeros"


def _slower(layer: Any, maps: list[tuple] | None) -> str:
    """Why the layer had better stay dense; nothing where sparse is faster, over all its calls."""
    if not maps or any(None in shape[1:] for shape in maps):
        return "the size of its input is open: give input_shape=(height, width, channels), or force=True"
    kernel = to_numpy(layer.kernel)
    kernel = kernel.reshape(1, 1, *kernel.shape) if kernel.ndim == 2 else kernel
    try:
        times = [cost.predict(cost.ConvShape.of(layer, shape), kernel) for shape in maps]
    except (RuntimeError, ValueError) as error:  # no native library, or no shape for it
        return str(error)
    dense_ms, sparse_ms = sum(time.dense_ms for time in times), sum(time.sparse_ms for time in times)
    return (
        "" if sparse_ms < dense_ms else f"{sparse_ms:.3g} ms sparse are no less than {dense_ms:.3g} ms dense"
    )
