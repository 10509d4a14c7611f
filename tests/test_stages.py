"""Stages of compression one after another: what one has won, those after it keep."""

import keras
import numpy as np
import pytest
from backends import NEEDS_TENSORFLOW
from masks import LOSS, array, constants, data, fit, network

import tfcompress
from tfcompress import prune, share, strip, wrap
from tfcompress.callbacks import UpdateMasks
from tfcompress.layers import DynamicNetworkSurgery

KERNELS = "first", "second", "head"
BITS = {"first": 3, "second": 2, "head": 4}


def kernels(model) -> dict[str, np.ndarray]:
    return {name: array(model.get_layer(name).kernel) for name in KERNELS}


def assert_zeros_stay(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> None:
    for name in KERNELS:
        assert before[name].shape == after[name].shape
        assert not after[name][before[name] == 0].any(), f"'{name}' has lost zeros"
        assert after[name].any()


def assert_few_values(kernels: dict[str, np.ndarray]) -> None:
    for name, kernel in kernels.items():
        assert len(np.unique(kernel[kernel != 0])) < 2 ** BITS[name]


@pytest.fixture(scope="module")
def stages() -> dict[str, keras.Model]:
    """Fewer filters, then masks, then shared values, both trained; all are plain models."""
    pruned = prune(network(dropout=0), "l1", sparsity=0.5)
    masked = wrap(pruned, DynamicNetworkSurgery(sparsity=0.6))
    masked.compile("adam", LOSS)
    fit(masked, UpdateMasks(), epochs=2)
    sparse = strip(masked)
    shared = share(masked, BITS)
    shared.compile(keras.optimizers.Adam(0.01), LOSS)
    fit(shared, epochs=2)
    return {"pruned": pruned, "sparse": sparse, "shared": strip(shared)}


def test_training_keeps_what_was_won(stages):
    pruned, sparse, shared = (kernels(stages[stage]) for stage in ("pruned", "sparse", "shared"))
    assert pruned["second"].shape == sparse["second"].shape == (3, 3, 4, 4)
    assert all((kernel == 0).mean() > 0.4 for kernel in sparse.values())
    assert_zeros_stay(sparse, shared)
    assert_few_values(shared)


def test_a_compressed_file_keeps_it(stages, tmp_path):
    tfcompress.save_compressed(stages["shared"], tmp_path / "model.tfc")
    again = kernels(tfcompress.load_compressed(tmp_path / "model.tfc"))
    assert_zeros_stay(kernels(stages["sparse"]), again)
    assert_few_values(again)


@NEEDS_TENSORFLOW
@pytest.mark.parametrize("quantization", [None, "float16", "dynamic_int8", "int8"])
def test_a_tflite_file_keeps_it(stages, tmp_path, quantization):
    """Batch norms scale whole filters, so that each filter has few values; int8 may make them fewer."""
    settings = {"representative_data": data()[0]} if quantization == "int8" else {}
    report = tfcompress.export.tflite(
        stages["shared"], tmp_path / "model.tflite", quantization=quantization, **settings
    )
    before = {name: np.moveaxis(kernel, -1, 0) for name, kernel in kernels(stages["shared"]).items()}
    shapes = {name: kernel.shape for name, kernel in before.items()}
    after = constants(report.path, shapes, half=quantization == "float16")
    assert_zeros_stay(before, after)
    for name, kernel in after.items():
        values = max(len(np.unique(part[part != 0])) for part in kernel)
        assert values < 2 ** BITS[name]


def test_pruning_again_keeps_zeros_of_what_stays(stages):
    """Filters that go take their zeros along; the others have theirs."""
    sparse = stages["sparse"]
    smaller = prune(sparse, "l1", sparsity=0.5, exclude="first")
    kept = kernels(smaller)["second"]
    before = kernels(sparse)["second"]
    assert kept.shape == (3, 3, 4, 2)
    places = [int(np.flatnonzero((before == kept[..., [i]]).all((0, 1, 2)))[0]) for i in range(2)]
    np.testing.assert_array_equal(before[..., places], kept)
