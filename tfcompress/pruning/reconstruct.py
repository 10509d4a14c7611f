"""Give a pruned model the weights that come nearest to what its layers said before, by least squares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from rich.table import Table

from tfcompress import _calls, _cloning, _data, _names, channels
from tfcompress._arrays import to_numpy
from tfcompress._checks import check_number, check_whole
from tfcompress._text import plain
from tfcompress._unfold import inner
from tfcompress.analysis.grouping import check_finite
from tfcompress.criteria.taps import channel_axis, run
from tfcompress.layers.masked import MaskedLayer
from tfcompress.pruning.least_squares import Moments, refit
from tfcompress.pruning.removed import keep_masks
from tfcompress.pruning.unfolded import Inputs, Unfolded, rows, why_not


@dataclass(frozen=True)
class Reconstruction:
    """What `reconstruct` did; print it for a table.

    Attributes:
        errors: layer path -> (before, after), the squared error of what the layer says before its activation
            function, on the data, as a share of the squares of what it said in the reference.
        left_alone: layer path -> why its weights are as they were.
    """

    errors: Mapping[str, tuple[float, float]]
    left_alone: Mapping[str, str]

    def __rich__(self) -> Table:
        table = Table(title="Squared error of each layer, as a share")
        for column in ("layer", "before", "after"):
            table.add_column(column, justify="left" if column == "layer" else "right")
        for path, pair in self.errors.items():
            table.add_row(path, *(f"{error:.3g}" for error in pair))
        for path, reason in self.left_alone.items():
            table.add_row(path, f"[dim]{reason}[/dim]")
        return table

    def __str__(self) -> str:
        return plain(self)


class Origin(NamedTuple):
    """What a layer is to say: some outputs of a layer of the reference."""

    path: str
    outputs: np.ndarray


def reconstruct(
    model: keras.Model,
    reference: keras.Model,
    data: Any,
    *,
    positions: int | None = None,
    ridge: float = 1e-2,
    include: _names.Patterns = None,
    exclude: _names.Patterns = None,
    seed: int = 0,
) -> keras.Model:
    """Fits what each layer of a pruned model says to what it said in the model that was pruned.

    Layer by layer, from the inputs to the outputs, with X what the layer sees now and Y what it said in
    the reference before its activation function, its kernel and bias become

        argmin_A ||Y - X A||^2 + ridge * m ||A - A_0||^2

    over the weights that are left, m the mean of the diagonal of `X^T X`. Later layers make up for what
    earlier ones lost. After filters are removed that is the reconstruction of ThiNet (Luo, Wu and Lin 2017,
    section 3.2.3); under masks, or where weights are zero, the local fine-tuning of Yang, Chen and Sze 2017
    ("Designing Energy-Efficient Convolutional Neural Networks using Energy-Aware Pruning"), for which zeros
    stay zero. It needs images and no labels, no training, and no learning rate. The ridge, which neither
    paper has, holds weights near what they were where few images say otherwise: a ResNet-20 that lost 30 %
    of its filters, and all but 15 % of its accuracy with them, got back to 68.8 % with 500 images at 0.01,
    and to 68.3 % at 1e-6; with 50 images to 61.1 and 57.6 % (held-out training images of CIFAR-10; whole it
    had 78.6 %).

    Squares are added up batch by batch in float64; the images may be any number, and memory holds one square
    matrix per layer, of the size of a filter.

    Args:
        model: what `prune`, or another verb that removes filters, made of the reference; or `replace`, of
            which the last layers in a layer's place are fitted to what it said; or a model with masks or
            zeros of the reference's shapes. It is not changed.
        reference: the model as it was before.
        data: images, as `prune` takes them; some hundreds. A layer wants several times as many rows, images
            by positions, as a filter has weights.
        positions: at how many positions of each batch rows are taken, drawn at random; None: at all.
        ridge: 0 or more. With very few images 0.1 is better.
        include: layer paths or regular expressions; only these layers are fitted.
        exclude: likewise, these are not.
        seed: of the draws.

    Returns:
        The model with new weights, and with what was done in its attribute `reconstruction`.

    Raises:
        ValueError: an argument is wrong, a pattern matches nothing, data is missing or does not fit, a weight
            is NaN, or `model` has no layer that was one of the reference.

    >>> x = keras.Input((8, 8, 3))
    >>> y = keras.layers.Conv2D(16, 3, activation="relu", name="stem")(x)
    >>> y = keras.layers.GlobalAveragePooling2D()(y)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="head")(y))
    >>> from tfcompress import prune
    >>> small = prune(model, "l1", sparsity=0.5)
    >>> small = reconstruct(small, model, np.random.rand(64, 8, 8, 3))
    >>> before, after = small.reconstruction.errors["head"]
    >>> bool(after <= before)
    True
    """
    check_fit(positions, ridge)
    for each in (model, reference):
        _calls.check_functional(each)
        check_finite(each)
    if data is None:
        raise ValueError("Reconstruction looks at activations: pass data, e.g. a few hundred images.")
    data = _data.repeatable(data)
    origins, left_alone = _matched(model, reference, include, exclude)
    fitted = _cloning.clone(model)
    errors = {}
    for path, origin in origins.items():
        layer = dict(_calls.walk(fitted))[path]
        unfolded = Unfolded(inner(layer))
        found = moments(fitted, path, data, positions, seed, reference=reference, origin=origin)
        before, support = unfolded.weights(), unfolded.with_bias(unfolded.fold(nonzero(layer)))
        after = refit(found, before, support, ridge)
        unfolded.assign(np.where(support, after, before))
        errors[path] = share(found, np.where(support, before, 0.0)), share(found, after)
    for report in ("removed", "redesigned"):
        if hasattr(model, report):
            setattr(fitted, report, getattr(model, report))
    fitted.reconstruction = Reconstruction(errors, left_alone)
    return fitted


def check_fit(positions: Any, ridge: Any) -> None:
    """Raises `ValueError` unless these are settings of a fit by least squares."""
    check_whole("positions", positions, or_none=True)
    check_number("ridge", ridge, "[0, inf)")


def moments(
    model: keras.Model,
    path: str,
    data: Any,
    positions: int | None,
    seed: int,
    *,
    reference: keras.Model,
    origin: Origin,
    weights: np.ndarray | None = None,
) -> Moments:
    """Of what a layer of `model` sees, and of what it is to say: what its origin says in `reference`.

    Args:
        weights: the matrices of the origin that say it; by default those it has in the reference.
    """
    sources = [Inputs(model, path)]
    if model is not reference:
        sources.append(Inputs(reference, origin.path))
    own = sources[0].unfolded
    says = sources[-1].unfolded.weights() if weights is None else weights
    found = Moments.none(*own.weights().shape)
    for seen in rows(sources, data, positions, seed):
        said = np.concatenate(list(seen[-1].astype("float64") @ says), axis=-1)[:, origin.outputs]
        found.add(seen[0], np.stack(np.split(said, own.groups, axis=-1)))
    return found


def nonzero(layer: Any) -> np.ndarray:
    """The entries of a layer's kernel that count, as bool."""
    return layer.masked[0].kept if isinstance(layer, MaskedLayer) else to_numpy(layer.kernel) != 0


def share(found: Moments, weights: np.ndarray) -> float:
    """The squared error of weights, as a share of the squares of what is to be said."""
    whole = found.yy.sum()
    return float(found.error(weights).sum() / whole) if whole > 0 else 0.0


def fittable(model: keras.Model) -> tuple[dict[str, Any], dict[str, str]]:
    """Layer path -> layer, as they run; and path -> why its weights cannot be found by least squares."""
    layers = {path: layer for path, layer in _calls.called(model).items() if getattr(layer, "weights", None)}
    reasons = {path: reason for path, layer in layers.items() if (reason := why_not(layer))}
    return layers, reasons


def _matched(
    model: keras.Model, reference: keras.Model, include: _names.Patterns, exclude: _names.Patterns
) -> tuple[dict[str, Origin], dict[str, str]]:
    """Layer path -> what of the reference it is to say; and layer path -> why it is left alone."""
    take = _remaining(model, reference)
    redesigned = getattr(getattr(model, "redesigned", None), "outputs", {})
    layers, reasons = fittable(model)
    before = _calls.called(reference)
    places = [_places(each) for each in (model, reference)]
    origins: dict[str, Origin] = {}
    for path in _names.chosen(layers, include, exclude):
        first, outputs = redesigned.get(path, (path, None))
        reason = reasons.get(path) or _why_not_alike(layers[path], before.get(first))
        if not reason and places[0][path] != places[1][first]:
            reason = "it has other positions than in the reference"
        if not reason:
            own, old = (Unfolded(inner(layer)) for layer in (layers[path], before[first]))
            outputs = np.unique(take(first, 0, old.output_numbers())) if outputs is None else outputs
            origins[path] = Origin(first, outputs)
            reason = _why_not_of(own, outputs)
        if reason:
            reasons[path] = reason
    origins = {path: origin for path, origin in origins.items() if path not in reasons}
    if not origins:
        raise ValueError(f"No layer of '{model.name}' can be fitted to '{reference.name}': {reasons}.")
    return origins, reasons


def _remaining(model: keras.Model, reference: keras.Model) -> Callable[[str, int, np.ndarray], np.ndarray]:
    """From an array shaped like a weight of the reference to the part of it that `model` has."""
    graph = channels.trace(reference)
    try:
        return channels.remaining(graph, keep_masks(graph, getattr(model, "removed", ())))
    except ValueError as error:
        raise ValueError(
            f"What `removed` says of '{model.name}' does not fit '{reference.name}': the reference must be "
            f"the model that the verb was given. {error}"
        ) from error


def _places(model: keras.Model) -> dict[str, list[tuple]]:
    """Layer path -> the shapes of what it says, call by call, without channels; open sizes are None."""
    paths = {id(operation): path for path, operation in _calls.walk(model)}
    found: dict[str, list[tuple]] = {}

    def call(step: _calls.Call, args: Any, kwargs: dict) -> Any:
        outputs = step.operation.compute_output_spec(*args, **kwargs)
        layer = inner(step.operation)
        shape = list(keras.tree.flatten(outputs)[0].shape)
        if shape:
            del shape[channel_axis(layer, layer)]
        found.setdefault(paths[id(step.operation)], []).append(tuple(shape))
        return outputs

    run(model, model.inputs, call)
    return found


def _why_not_alike(layer: Any, before: Any) -> str:
    """Why a layer cannot be what a layer of the reference was made into; empty if it can."""
    alike = type(inner(layer)) is type(inner(before))
    return "" if alike else "the reference has no such layer"


def _why_not_of(own: Unfolded, outputs: np.ndarray) -> str:
    if own.outputs == len(outputs):
        return ""
    return (
        f"it has {own.outputs} outputs, and by the model's attribute `removed` {len(outputs)} should be left"
    )
