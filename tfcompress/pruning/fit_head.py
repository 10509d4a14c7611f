"""A classifier fitted to a network's features, in place of the layers behind them (Tian et al. 2017)."""

from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress import _calls, _cloning, _data
from tfcompress._checks import check_choice
from tfcompress._unfold import CONVOLUTIONS, DEPTHWISE
from tfcompress.criteria.sites import Site, owners, site
from tfcompress.criteria.taps import channel_axis
from tfcompress.pruning import heads
from tfcompress.pruning.heads import Head

_SEPARABLE = layers.SeparableConv1D, layers.SeparableConv2D
_TRANSPOSED = tuple(getattr(layers, f"Conv{rank}DTranspose") for rank in (1, 2, 3))


def fit_head(
    model: keras.Model, head: str | Head | dict, data: Any, *, layer: str | None = None, name: str = "head"
) -> keras.Model:
    """Returns the network up to its features, with a classifier behind them that is fitted to data.

    Behind a network pruned by LDA (`"lda"`, `"deep_lda"`) few neurons are left, each of which tells classes
    apart, and a classifier for few features takes the place of the dense layers: Bayes' quadratic
    discriminant, or a support vector machine (Tian, Arbel and Clark 2017, "Deep LDA-Pruned Nets for
    Efficient Facial Gender Classification"). Features are what LDA looks at: the maximum of each map of the
    last convolution, behind its activation function.

    The result is made of stock layers and operations of Keras, gives one number per class, and saves, loads
    and exports without tfcompress. It is not compiled; what is behind the features in `model` is gone.

    Args:
        model: a functional or Sequential model, built. It is not changed.
        head: `"quadratic_discriminant"`, `"linear_svm"` or `"rbf_svm"`, or one with settings such as
            `heads.QuadraticDiscriminant(shrinkage=0.3)`.
        data: (images, labels), as `tfcompress.prune` takes them, one or more batches; labels are whole
            numbers from 0 or one-hot. Column *k* of the outputs is for class *k*. Features of all images are
            held in memory.
        layer: the path of another layer whose outputs are the features; maps give their maxima, other outputs
            are taken as they are.
        name: what names of new layers begin with.

    Raises:
        ValueError: an argument is wrong; data or labels are missing or do not fit; there is a single class,
            or none of the images is of a class below the highest; a feature is NaN or infinite; or a class
            has too few images for the head.

    >>> x = keras.Input((8, 8, 1))
    >>> y = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(y)))
    >>> data = np.random.rand(40, 8, 8, 1), np.arange(40) % 2
    >>> fit_head(model, "quadratic_discriminant", data).predict(data[0], verbose=0).shape
    (40, 2)
    """
    head = heads.get(head)
    if not isinstance(head, Head):
        raise ValueError(f"Expected a head, its name or its class, got {head!r}.")
    _calls.check_functional(model)
    if data is None:
        raise ValueError("A head is fitted to data: pass data as (inputs, labels).")
    features = _features(_cloning.clone(model), layer, name)
    found = [
        (np.asarray(features.predict_on_batch(inputs), "float64"), _data.classes(labels))
        for inputs, labels in _data.labelled(model, data, "A head")
    ]
    x, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    classes = _checked(x, labels)
    outputs = head.fitted(x, labels, classes, name)(features.outputs[0])
    return keras.Model(features.inputs, outputs, name=model.name)


def _checked(x: np.ndarray, labels: np.ndarray) -> int:
    """How many classes there are."""
    if not np.isfinite(x).all():
        raise ValueError("Some features are NaN or infinite: look at the model's weights and at the images.")
    present = np.unique(labels)
    if present[0] < 0 or len(present) < 2:
        raise ValueError(
            f"A head tells classes apart, numbered from 0; the labels are all in {present.tolist()}."
        )
    if missing := sorted(set(range(present[-1])) - set(present.tolist())):
        raise ValueError(
            f"Column k of the outputs is for class k, up to {present[-1]}, but the data has no image of "
            f"classes {missing[:8]}: number the classes from 0 without gaps."
        )
    return len(present)


def _features(model: keras.Model, layer: str | None, name: str) -> keras.Model:
    """From images to features `(batch, features)`; uses the layers of `model`."""
    path = _last_convolution(model) if layer is None else _named(model, layer)
    place, operation = owners(model)[path], _calls.called(model).get(path)
    maps = _cut(model, site(place))
    rank = len(maps.shape) - 2
    if rank > 0:
        first = channel_axis(operation, place.operation) != -1
        kind = getattr(layers, f"GlobalMaxPooling{rank}D")
        maps = kind(data_format="channels_first" if first else "channels_last", name=f"{name}_maxima")(maps)
    return keras.Model(model.inputs, maps)


def _cut(model: keras.Model, end: Site) -> Any:
    """The tensor at a site, as the layers of a model make it from the model's inputs."""
    found: list = []

    def call(step: _calls.Call, args: Any, kwargs: dict) -> Any:
        nested = _calls.is_functional(step.operation)
        if nested and any(operation is end.operation for _, operation in _calls.walk(step.operation)):
            recipe = _calls.read(step.operation)
            given = [
                leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, keras.KerasTensor)
            ]
            return recipe.run(given[: len(keras.tree.flatten(recipe.inputs))], call)
        outputs = step.operation(*args, **kwargs)
        if (step.operation, step.index) == (end.operation, end.call):
            found.append(keras.tree.flatten(outputs)[0])
        return outputs

    _calls.read(model).run(model.inputs, call)
    return found[0]


def _last_convolution(model: keras.Model) -> str:
    kinds = (*CONVOLUTIONS, *DEPTHWISE, *_SEPARABLE, *_TRANSPOSED)
    paths = [path for path, operation in _calls.called(model).items() if isinstance(operation, kinds)]
    if not paths:
        raise ValueError(f"'{model.name}' has no convolution to take features from: give layer=.")
    return paths[-1]


def _named(model: keras.Model, layer: str) -> str:
    called = _calls.called(model)
    check_choice("layer", layer, called)
    return layer
