"""Between which sparsities it pays to leave out the zeros of a layer, for every layer of a model.

>>> conv5 = ConvShape(13, 13, channels=384, filters=256, kernel_size=(3, 3), groups=2)  # of AlexNet
>>> window = park_window(conv5, flops_per_second=2150e9, bytes_per_second=122e9, alpha=3.0)
>>> round(1 - window.upper, 3), round(1 - window.lower, 3)  # the shares of weights that stay
(0.02, 0.333)
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfcompress import _calls
from tfcompress._checks import near_miss
from tfcompress._names import matches
from tfcompress.analysis.steps import InputShape, replay
from tfcompress.layers.sparse_conv import unsuited
from tfcompress.ops import ConvShape, Window, useful_window

Given = Mapping[str, Any] | Callable[[ConvShape], Any] | None

_BYTES = 4  # of a float32 number


def park_window(
    shape: ConvShape, *, flops_per_second: float, bytes_per_second: float, alpha: float, beta: float = 2.0
) -> Window | None:
    """The window of useful sparsity by the formula of Park et al., for a machine given by its data sheet.

    Where the machine itself is at hand, `ops.useful_window` knows better. Of a convolution of C floating
    point operations, whose input and output take S_A bytes and whose dense kernel takes S_W, let the share x
    of the weights stay. Then

        dense time      C / F
        sparse time     max(alpha x C / F, (S_A + beta x S_W) / B),

    so that it pays from x_hi = 1 / alpha down to x_lo = S_A / (alpha C B / F - beta S_W), below which
    memory is what it waits for. The paper bounds x; a sparsity is 1 - x, and so the window is from 1 - x_hi
    to 1 - x_lo.

    Args:
        shape: the convolution, of one image.
        flops_per_second: F, multiplications and additions of floats per second.
        bytes_per_second: B, what memory delivers.
        alpha: how much longer a sparse multiplication takes than a dense one; in the paper 3 on a Xeon
            E5-2697v4, 1.2 on an Atom C2750.
        beta: how much larger a weight is with its index than without.

    Returns:
        The window; None where memory is what the convolution waits for at every sparsity that would pay.

    Raises:
        ValueError: a number is not positive.

    Reference: Park et al., Faster CNNs with Direct Sparse Convolutions and Guided Pruning, ICLR 2017,
    section 2.2.
    """
    names = "flops_per_second", "bytes_per_second", "alpha", "beta"
    for name, value in zip(names, (flops_per_second, bytes_per_second, alpha, beta), strict=True):
        if not value > 0:
            raise ValueError(f"{name} must be a number above 0, got {value!r}.")
    pixels = math.prod(_output_size(shape, axis) for axis in (0, 1))
    activations = _BYTES * (shape.height * shape.width * shape.channels + pixels * shape.filters)
    dense_seconds = 2 * pixels * shape.weights / flops_per_second
    spare = alpha * dense_seconds * bytes_per_second - beta * _BYTES * shape.weights
    most = min(1.0, 1 / alpha)
    if spare <= 0 or activations / spare >= most:
        return None
    return Window(1 - most, 1 - activations / spare)


def checked_windows(given: Given) -> Given:
    """What the user gave, or raises `ValueError` if it says nothing about windows."""
    if given is not None and not isinstance(given, Mapping) and not callable(given):
        raise ValueError(
            "windows is a dict from layer names or regular expressions to (lower, upper), or a function "
            f"from ops.ConvShape to ops.Window or None, such as ops.useful_window; got {given!r}."
        )
    for window in given.values() if isinstance(given, Mapping) else ():
        _checked(window)
    return given


def windows_of(
    model: keras.Model, layers: Mapping[str, keras.Layer], given: Given, input_shape: InputShape | None
) -> dict[str, Window | None]:
    """The window of each of the layers; None where no sparsity makes it faster.

    A layer that is called on several maps has the sparsities that pay at all of them.

    Raises:
        ValueError: a pattern matches no layer; without patterns, the model is subclassed or its input size
            is open; without a function, the native core was not built.
    """
    if isinstance(given, Mapping):
        return _named(given, layers)
    if not _calls.is_functional(model):
        raise ValueError(
            f"'{model.name}' is a subclassed model ({type(model).__name__}), which does not tell on what "
            "maps its layers are called. Say yourself between which sparsities they gain: "
            "GuidedSparsity({'conv': (0.6, 0.9)})."
        )
    window = _predicted if given is None else given
    shapes = _shapes(model, layers, input_shape)
    return {path: _common([_checked(window(shape)) for shape in shapes.get(path, ())]) for path in layers}


def _named(given: Mapping[str, Any], layers: Mapping[str, Any]) -> dict[str, Window | None]:
    """The first pattern that matches counts."""
    for pattern in given:
        if not any(matches(path, pattern) for path in layers):
            raise ValueError(near_miss("layer or pattern", pattern, layers))
    found = {path: [window for pattern, window in given.items() if matches(path, pattern)] for path in layers}
    return {path: _checked(windows[0]) if windows else None for path, windows in found.items()}


def _predicted(shape: ConvShape) -> Window | None:
    try:
        return useful_window(shape)
    except RuntimeError as error:
        raise ValueError(
            f"{error} Or say yourself between which sparsities layers gain: "
            "GuidedSparsity({'conv': (0.6, 0.9)})."
        ) from error


def _checked(window: Any) -> Window | None:
    if window is None:
        return None
    try:
        lower, upper = (window.lower, window.upper) if isinstance(window, Window) else window
        sound = 0 <= lower < upper <= 1
    except (TypeError, ValueError):  # no pair, or not of numbers
        sound = False
    if not sound:
        raise ValueError(
            "A window is a pair of sparsities, shares of zeros, 0 <= lower < upper <= 1; or None for a "
            f"layer that is to stay dense. Got {window!r}."
        )
    return Window(float(lower), float(upper))


def _common(windows: list[Window | None]) -> Window | None:
    """The sparsities that are in all of the windows, if any are."""
    found = [window for window in windows if window is not None]
    if not found or len(found) < len(windows):
        return None
    lower, upper = max(window.lower for window in found), min(window.upper for window in found)
    return Window(lower, upper) if lower < upper else None


def _shapes(
    model: keras.Model, layers: Mapping[str, keras.Layer], input_shape: InputShape | None
) -> dict[str, list[ConvShape]]:
    """Of every call of the layers in whose place `sparsify` could put a sparse one."""
    suited = {path: layer for path, layer in layers.items() if not unsuited(layer)}
    found: dict[str, list[ConvShape]] = {}
    for step in replay(model, input_shape).steps:
        if step.path in suited:
            shape = ConvShape.of(suited[step.path], step.inputs[0].shape)
            found.setdefault(step.path, []).append(shape)
    return found


def _output_size(shape: ConvShape, axis: int) -> int:
    size, stride = (shape.height, shape.width)[axis], shape.strides[axis]
    reach = (shape.kernel_size[axis] - 1) * shape.dilation_rate[axis]
    return -(-(size if shape.padding == "same" else size - reach) // stride)
