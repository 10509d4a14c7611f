"""Maps in tiles: convolutions that hand them to each other compute what they do on images, residuals too."""

import ctypes
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")

import core  # noqa: E402
import tiles as t  # noqa: E402


@st.composite
def convolutions(draw):
    """A convolution, weights with zeros, maps, a residual, and which maps are in tiles."""
    same = draw(st.booleans())
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (5, 5), (2, 3), (1, 7)]))
    dilation = draw(st.sampled_from([1, 1, 2])) if same else 1
    pads = [(k - 1) * dilation for k in kernel]
    shape = core.Shape(
        height=draw(st.integers(1, 30)),
        width=draw(st.integers(1, 30)),
        channels=draw(st.sampled_from([1, 3, 16, 17, 40])),
        filters=draw(st.sampled_from([1, 5, 16, 35])),
        kernel_height=kernel[0],
        kernel_width=kernel[1],
        dilation_height=dilation,
        dilation_width=dilation,
        stride_height=1 if same else draw(st.integers(1, 2)),
        stride_width=1 if same else draw(st.integers(1, 2)),
        pad_top=pads[0] // 2,
        pad_bottom=pads[0] - pads[0] // 2,
        pad_left=pads[1] // 2,
        pad_right=pads[1] - pads[1] // 2,
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = rng.normal(size=shape.weights) * (rng.random(shape.weights) < draw(st.sampled_from([0.1, 1])))
    weights[:, :, rng.random(shape.weights[2]) < draw(st.sampled_from([0, 0.5]))] = 0
    bias = rng.normal(size=shape.filters).astype("float32")
    batch = draw(st.integers(1, 2))
    x = rng.normal(size=(batch, shape.height, shape.width, shape.channels)).astype("float32")
    residual = rng.normal(size=(batch, *core.output_shape(shape))).astype("float32")
    tiled = {name: draw(st.booleans()) for name in ("residual", "output")}
    return (
        shape,
        weights.astype("float32"),
        bias,
        x,
        residual,
        tiled | {"input": same and draw(st.booleans())},
    )


@settings(max_examples=80, deadline=None)
@given(convolutions(), st.sampled_from([None, "relu", "relu6"]))
def test_maps_in_tiles_give_what_images_give(case, activation):
    shape, weights, bias, x, residual, tiled = case
    linear = core.reference(shape, weights, bias, None, x) + residual
    low, high = {None: (-np.inf, np.inf), "relu": (0, np.inf), "relu6": (0, 6)}[activation]
    expected = linear.clip(low, high)
    for kernel in lanes_kernels():
        status, plan = t.create(shape, weights, bias, activation, kernel=kernel, tiled_output=True)
        assert status == core.OK
        tiles = t.library().tfc_plan_tiles(plan)
        t.library().tfc_plan_destroy(plan)
        flags = {f"tiled_{name}": on for name, on in tiled.items()}
        status, plan = t.create(shape, weights, bias, activation, kernel=kernel, tiles=tiles, **flags)
        if tiled["input"] and reaches_too_far(shape, tiles):
            assert status == core.BAD_ARGUMENT
            continue
        assert status == core.OK
        maps = [
            t.tiled(images, tiles) if tiled[name] else images
            for name, images in {
                "input": x,
                "residual": residual,
                "output": np.full_like(expected, np.nan),
            }.items()
        ]
        outs = []
        for threads in (1, 3):
            assert t.run(plan, *maps, threads) == core.OK
            outs.append(t.untiled(maps[2], tiles, expected.shape) if tiled["output"] else maps[2].copy())
        t.library().tfc_plan_destroy(plan)
        np.testing.assert_allclose(outs[0], expected, rtol=0, atol=1e-5 * (1 + np.abs(linear).max()))
        np.testing.assert_array_equal(outs[0], outs[1])


def reaches_too_far(shape, tiles) -> bool:
    """Whether taps reach beyond the next region."""
    return (
        max(shape.pad_top, shape.pad_bottom) > tiles.region[0]
        or max(shape.pad_left, shape.pad_right) > tiles.region[1]
    )


def lanes_kernels() -> list[str]:
    """Those that maps in tiles are for."""
    return [kernel for kernel in core.kernels() if kernel.startswith("lanes")]


@settings(max_examples=40, deadline=None)
@given(convolutions())
def test_a_residual_is_added_to_images_too(case):
    shape, weights, bias, x, residual, _ = case
    expected = core.reference(shape, weights, bias, None, x) + residual
    for kernel in core.kernels():
        status, plan = t.create(shape, weights, bias, kernel=kernel)
        assert status == core.OK
        out = np.full_like(expected, np.nan)
        assert t.run(plan, x, residual, out, 2) == core.OK
        t.library().tfc_plan_destroy(plan)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5 * (1 + np.abs(expected).max()))


def test_whole_blocks_of_weights_go_to_a_kernel_of_blocks_and_scattered_ones_to_lanes():
    rng = np.random.default_rng(0)
    shape = core.Shape(height=28, width=28, channels=128, filters=128)
    scattered = rng.random((1, 1, 128, 128)) < 0.1
    together = np.repeat(rng.random((1, 1, 128, 8)) < 0.1, 16, axis=-1)
    for stays, kind in ((scattered, "lanes"), (together, "blocks")):
        status, plan = t.create(shape, stays.astype("float32"))
        assert status == core.OK
        assert core.library().tfc_plan_kernel(plan).decode().startswith(kind)
        core.library().tfc_plan_destroy(plan)


def test_kernels_of_blocks_take_no_tiles():
    shape, weights = core.Shape(**GOOD), np.ones((3, 3, 4, 6), "float32")
    for kernel in set(core.kernels()) - set(lanes_kernels()):
        assert t.create(shape, weights, kernel=kernel, tiled_output=True)[0] == core.BAD_ARGUMENT


GOOD = {"height": 8, "width": 8, "channels": 4, "filters": 6, "kernel_height": 3, "kernel_width": 3}


@pytest.mark.parametrize(
    "options",
    [
        {"tiled_input": True},  # the output is smaller than the input
        {"tiles": t.Tiles(rows=5, columns=11, lane_rows=2)},
        {"tiles": t.Tiles(rows=-1, columns=0, lane_rows=0)},
    ],
)
def test_tiles_that_do_not_fit_are_refused(options):
    status, plan = t.create(core.Shape(**GOOD), np.ones((3, 3, 4, 6), "float32"), **options)
    assert status == core.BAD_ARGUMENT and not plan


@pytest.mark.parametrize(("height", "width", "floats"), [(8, 8, 3 * 64), (9, 8, 3 * 128), (9, 9, 3 * 256)])
def test_a_map_in_tiles_is_filled_up_to_whole_regions(height, width, floats):
    tiles = t.Tiles(rows=2, columns=2, lane_rows=4)
    assert t.library().tfc_tiled_floats(ctypes.byref(tiles), height, width, 3) == floats
