"""`tfcompress.compat.tfmot` against the installed tfmot: `make test-tfmot`."""

import inspect
import pathlib

import keras
import numpy as np
import pytest

from tfcompress import _kernels
from tfcompress.compat.tfmot.masks import LowMagnitude
from tfcompress.compat.tfmot.sparsity import keras as ours
from tfcompress.layers import MaskedWeight, masked_weights

theirs = pytest.importorskip("tensorflow_model_optimization").sparsity.keras
tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")
internals = "tensorflow_model_optimization.python.core.sparsity.keras"
pruning_impl = pytest.importorskip(f"{internals}.pruning_impl")
prune_registry = pytest.importorskip(f"{internals}.prune_registry")

pytestmark = pytest.mark.filterwarnings("ignore")  # those of tfmot and tf_keras are not ours to mend
SCRIPT = pathlib.Path(__file__).with_name("tfmot_script.py")


# Interface


def parameters(function) -> list[tuple]:
    """Name, kind and default of each parameter; of a schedule as a default its config."""
    found = inspect.signature(function).parameters.values()
    defaults = [getattr(p.default, "get_config", lambda p=p: p.default)() for p in found]
    return [(p.name, p.kind, default) for p, default in zip(found, defaults, strict=True)]


@pytest.mark.parametrize("name", ours.__all__)
def test_signatures_are_those_of_tfmot(name):
    mine, other = getattr(ours, name), getattr(theirs, name)
    if not inspect.isabstract(mine):
        assert parameters(mine) == parameters(other)
    for method in ("__call__", "get_config", "from_config", "allow_pruning", "ensure_model_supports_pruning"):
        if inspect.isclass(mine) and method in vars(other):
            assert parameters(getattr(mine, method)) == parameters(getattr(other, method))


def test_what_tfmot_has_and_we_do_not_is_known():
    public = {name for name in dir(theirs) if name[0].isupper() or name.startswith(("prune", "strip"))}
    assert public - set(ours.__all__) == {"PrunableLayer", "PruneForLatencyOnXNNPack"}


# Schedules


def random_settings(seed: int) -> tuple[dict, dict]:
    rng = np.random.default_rng(seed)
    low, high = rng.random(2) * 0.99
    begin = int(rng.integers(0, 50))
    steps = {
        "begin_step": begin,
        "end_step": begin + int(rng.integers(1, 400)),
        "frequency": int(rng.integers(1, 100)),
    }
    power = float(rng.choice([0.5, 1, 1.7, 2, 3, 4]))
    decay = {"initial_sparsity": low, "final_sparsity": high, "power": power}
    return {"target_sparsity": low} | steps, decay | steps


@pytest.mark.parametrize("seed", range(8))
def test_schedules_equal_those_of_tfmot_bit_for_bit_at_every_step(seed):
    constant, decay = random_settings(seed)
    pairs = [
        (ours.ConstantSparsity(**constant), theirs.ConstantSparsity(**constant)),
        (ours.ConstantSparsity(0.5, 3), theirs.ConstantSparsity(0.5, 3)),
        (ours.PolynomialDecay(**decay), theirs.PolynomialDecay(**decay)),
    ]
    for mine, other in pairs:
        assert mine.get_config() == other.get_config()
        assert mine == type(mine).from_config(other.get_config()["config"])
        for step in range(decay["end_step"] + 110):
            due, sparsity = other(tf.constant(step, tf.int64))
            assert mine(step) == (bool(due), float(sparsity)), step


@pytest.mark.parametrize("seed", range(8))
def test_next_update_is_the_next_step_at_which_tfmot_prunes(seed):
    for settings, kind in zip(random_settings(seed), ("ConstantSparsity", "PolynomialDecay"), strict=True):
        mine, other = getattr(ours, kind)(**settings), getattr(theirs, kind)(**settings)
        last = settings["end_step"] + 10
        due = np.flatnonzero(other(tf.range(last, dtype=tf.int64))[0].numpy())
        for step in range(last):
            later = due[due >= step]
            assert mine.next_update(step) == (later[0] if len(later) else None)


# Masks


def our_mask(kernel: np.ndarray, rule: LowMagnitude) -> np.ndarray:
    weight = keras.Variable(kernel)
    (mask,) = rule.update([MaskedWeight(weight, None, _kernels.Layout(), rule)], 0)
    return mask


def their_mask(kernel: np.ndarray, rule: LowMagnitude) -> np.ndarray:
    weight, mask, threshold = tf.Variable(kernel), tf.Variable(np.ones_like(kernel)), tf.Variable(0.0)
    pruning_impl.Pruning(
        lambda: tf.constant(1, tf.int64),
        [(weight, mask, threshold)],
        theirs.ConstantSparsity(rule.pruning_schedule.target_sparsity, 1),
        rule.block_size,
        rule.block_pooling_type,
        rule.sparsity_m_by_n,
    ).conditional_mask_update()
    return mask.numpy().astype(bool)


def assert_same_masks(shape: tuple[int, ...], sparsity: float = 0.5, **settings) -> None:
    rule = LowMagnitude(ours.ConstantSparsity(sparsity, 1), **settings)
    kernel = np.random.default_rng(0).normal(size=shape).astype("float32")
    np.testing.assert_array_equal(our_mask(kernel, rule), their_mask(kernel, rule))


@pytest.mark.parametrize("shape", [(7, 3), (3, 3, 3, 5), (5, 9, 1), (1, 1), (2, 3, 2, 3, 1), (257, 129)])
def test_masks_by_entry_equal_those_of_tfmot(shape):
    for sparsity in [*np.linspace(0, 0.99, 34), 0.5, 0.25, 0.875]:
        assert_same_masks(shape, sparsity)


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 59])
def test_as_many_entries_stay_as_in_tfmot_where_half_an_entry_is_rounded(size):
    for sparsity in np.arange(16) / 16:
        assert_same_masks((1, size), sparsity)


@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
@pytest.mark.parametrize("block", [(4, 1), (1, 4), (2, 3), (16, 1), (5, 7)])
def test_masks_by_block_equal_those_of_tfmot(block, pooling):
    for rows, columns in [(2, 2), (3, 2), (4, 6)]:  # tfmot fails where one of them is 1
        for sparsity in (0.1, 0.5, 0.8):
            shape = (rows * block[0], columns * block[1])
            assert_same_masks(shape, sparsity, block_size=block, block_pooling_type=pooling)


@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
@pytest.mark.parametrize("shape, block", [((7, 9), (4, 2)), ((11, 8), (3, 1)), ((9, 14), (2, 5))])
def test_masks_by_partial_block_equal_those_of_tfmot_where_one_row_or_column_lacks(shape, block, pooling):
    for sparsity in (0.1, 0.5, 0.8):
        assert_same_masks(shape, sparsity, block_size=block, block_pooling_type=pooling)


@pytest.mark.parametrize("m_by_n", [(2, 4), (1, 4), (3, 4), (1, 2), (4, 8), (0, 4)])
@pytest.mark.parametrize("shape", [(16, 5), (8, 1), (3, 3, 8, 4), (3, 3, 3, 8), (10, 6), (1, 1, 7, 2)])
def test_masks_m_by_n_equal_those_of_tfmot(shape, m_by_n):
    assert_same_masks(shape, sparsity_m_by_n=m_by_n)


# Kernels

LAYERS = {
    "Dense": (lambda k: k.Dense(3), (None, 4)),
    "Conv1D": (lambda k: k.Conv1D(3, 2), (None, 5, 4)),
    "Conv2D in groups": (lambda k: k.Conv2D(6, 2, groups=2), (None, 5, 5, 4)),
    "Conv3D": (lambda k: k.Conv3D(3, 2), (None, 5, 5, 5, 4)),
    "Conv2DTranspose": (lambda k: k.Conv2DTranspose(3, 2), (None, 5, 5, 4)),
    "Conv3DTranspose": (lambda k: k.Conv3DTranspose(3, 2), (None, 5, 5, 5, 4)),
    "DepthwiseConv2D": (lambda k: k.DepthwiseConv2D(2), (None, 5, 5, 4)),
    "SeparableConv1D": (lambda k: k.SeparableConv1D(3, 2), (None, 5, 4)),
    "SeparableConv2D": (lambda k: k.SeparableConv2D(3, 2), (None, 5, 5, 4)),
    "BatchNormalization": (lambda k: k.BatchNormalization(), (None, 5, 5, 4)),
    "Embedding": (lambda k: k.Embedding(9, 3), (None, 5)),
    "LSTM": (lambda k: k.LSTM(3), (None, 5, 4)),
    "GRU": (lambda k: k.GRU(3), (None, 5, 4)),
    "SimpleRNN": (lambda k: k.SimpleRNN(3), (None, 5, 4)),
    "MultiHeadAttention": (lambda k: k.MultiHeadAttention(2, 3), (None, 5, 4)),
}


def built(layers, name: str):
    make, shape = LAYERS[name]
    layer = make(layers)
    layer(*[np.zeros((1, *shape[1:]), "float32")] * (2 if name == "MultiHeadAttention" else 1))
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_kernels_that_tfmot_prunes_are_masked(name):
    rule = LowMagnitude(ours.ConstantSparsity(0.5, 1))
    other = prune_registry.PruneRegistry.make_prunable(built(tf_keras.layers, name))
    expected = [tuple(weight.shape) for weight in other.get_prunable_weights()]
    found = [
        tuple(weight.shape)
        for weight, layout in _kernels.kernels(built(keras.layers, name))
        if not rule.update([MaskedWeight(weight, None, layout, rule)], 0)[0].all()
    ]
    assert found == expected


# Training


def network(k):
    return k.Sequential(
        [
            k.Input((8, 8, 3)) if k is keras else k.layers.InputLayer((8, 8, 3)),
            k.layers.Conv2D(6, 3, activation="relu"),
            k.layers.DepthwiseConv2D(3),
            k.layers.SeparableConv2D(4, 3),
            k.layers.Flatten(),
            k.layers.Dense(5),
            k.layers.Dense(3),
        ]
    )


def same_networks() -> tuple:
    mine, other = network(keras), network(tf_keras)
    other.set_weights(mine.get_weights())
    return mine, other


def masks_by_batch(k, model, read, update_pruning_step) -> list[list[np.ndarray]]:
    """The masks after each of 24 batches of a training that changes no weight."""
    found = []

    class Watch(k.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            found.append(read(self.model))

    model.compile(k.optimizers.SGD(0.0), "mse")
    x, y = np.ones((96, 8, 8, 3), "float32"), np.ones((96, 3), "float32")
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[update_pruning_step, Watch()])
    return found


def our_masks(model) -> list[np.ndarray]:
    return [masked.kept for masked in masked_weights(model) if masked.layout.channels]


def their_masks(model) -> list[np.ndarray]:
    return [mask.numpy() > 0 for layer in model.layers for _, mask, _ in getattr(layer, "pruning_vars", [])]


@pytest.mark.parametrize(
    "kind, steps, settings",
    [
        ("PolynomialDecay", (0.25, 0.75, 0, 24, 3, 4), {}),
        ("PolynomialDecay", (0.25, 0.75, 2, 13, 1, 3), {}),
        ("ConstantSparsity", (0.5, 7, 20, 5), {}),
        ("ConstantSparsity", (0.5, 7), {"sparsity_m_by_n": (2, 4)}),
    ],
)
def test_masks_change_in_the_same_batches_to_the_same_values(kind, steps, settings):
    mine, other = same_networks()
    mine = ours.prune_low_magnitude(mine, getattr(ours, kind)(*steps), **settings)
    other = theirs.prune_low_magnitude(other, getattr(theirs, kind)(*steps), **settings)
    pairs = zip(
        masks_by_batch(keras, mine, our_masks, ours.UpdatePruningStep()),
        masks_by_batch(tf_keras, other, their_masks, theirs.UpdatePruningStep()),
        strict=True,
    )
    for mine, other in pairs:
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_script_runs_with_tfmot_itself_and_leaves_as_many_zeros(tmp_path):
    names = {}
    exec(compile(SCRIPT.read_text(encoding="utf-8"), SCRIPT, "exec"), names)
    _, final = names["run"](tmp_path)
    kernels = [weight.numpy() for weight in final.weights if len(weight.shape) > 1]
    assert [(kernel != 0).sum() for kernel in kernels] == [43, 72, 77]
