"""Checks every surgery goes through: the smaller model equals the silenced one."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfcompress import channels, selection
from tfcompress.channels.graph import weight_shapes


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Random values also where Keras begins with zeros and ones."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance", "variable", "alpha"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name in ("beta", "bias", "moving_mean"):
            weight.assign(rng.normal(0, 0.2, weight.shape))
    return model


def found(model: keras.Model, path: str) -> keras.Layer:
    """The layer at a path into nested models."""
    for name in path.split("/"):
        model = model.get_layer(name)
    return model


def random_masks(graph: channels.ChannelGraph, seed: int = 0, sparsity: float = 0.5) -> dict[str, np.ndarray]:
    """A random half of every group that may be pruned."""
    rng = np.random.default_rng(seed)
    scores = {group.name: rng.random(group.size) for group in graph.free}
    return selection.Selection(round_to=1).masks(scores, sparsity, graph.balances)


def uneven_masks(graph: channels.ChannelGraph, seed: int = 0) -> dict[str, np.ndarray]:
    """Some groups whole, and a random 20 to 80 % of each of the others."""
    rng = np.random.default_rng(seed)
    scores = {group.name: rng.random(group.size) for group in graph.free}
    shares = {name: float(rng.choice([0, 0, 0.2, 0.4, 0.6, 0.8])) for name in scores}
    return selection.Selection(round_to=1).masks(scores, shares, graph.balances)


def inputs_for(model: keras.Model, batch: int = 2, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [[batch, *(size or 12 for size in tensor.shape[1:])] for tensor in model.inputs]
    whole = [tensor.dtype.startswith("int") for tensor in model.inputs]
    return [
        rng.integers(0, 5, s) if w else rng.normal(size=s).astype("float32")
        for s, w in zip(shapes, whole, strict=True)
    ]


def outputs_of(model: keras.Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    structured = keras.tree.pack_sequence_as(structure, inputs)
    return [
        keras.ops.convert_to_numpy(y).astype("float64")
        for y in keras.tree.flatten(model(structured, training=False))
    ]


def relative_error(expected: list[np.ndarray], got: list[np.ndarray]) -> float:
    assert [y.shape for y in expected] == [y.shape for y in got]
    return max(
        float(np.abs(a - b).max() / (np.abs(a).max() or 1.0)) for a, b in zip(expected, got, strict=True)
    )


def check_exact(
    model: keras.Model,
    *,
    tolerance: float = 1e-5,
    seed: int = 0,
    approximate: bool = False,
    draws: Sequence[Callable] = (random_masks, uneven_masks),
) -> keras.Model:
    """Prunes by masks of every draw, compares with the silenced model, and returns that of the first."""
    randomize(model, seed)
    before = [variable.numpy() for variable in model.variables]
    graph = channels.trace(model, approximate=approximate)
    masks = [draw(graph, seed) for draw in draws]
    smaller = [channels.shrink(model, graph, keep) for keep in masks]
    same = [(v.numpy() == b).all() for v, b in zip(model.variables, before, strict=True)]
    assert all(same), "the input changed"
    inputs = inputs_for(model)
    for keep, small in zip(masks, smaller, strict=True):
        assert graph.shapes_after(keep) == weight_shapes(small)
        channels.silence(model, graph, keep)
        expected = outputs_of(model, inputs)
        assert all(np.isfinite(y).all() and y.std() > 0 for y in expected), "the comparison would be blind"
        assert relative_error(expected, outputs_of(small, inputs)) <= tolerance
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
    return smaller[0]
