"""Every kernel computes what the plain loop nest does, and bad input is a status."""

import core
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st


@st.composite
def convolutions(draw):
    """A convolution, its weights with zeros of some kind, and maps for it."""
    size = st.integers(1, 3)
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    shape = core.Shape(
        height=draw(st.integers(1, 30)),
        width=draw(st.integers(1, 30)),
        channels=groups * draw(st.sampled_from([1, 3, 8, 15, 16, 17, 33])),
        filters=groups * draw(st.sampled_from([1, 5, 16, 17, 40])),
        kernel_height=draw(st.integers(1, 5)),
        kernel_width=draw(st.integers(1, 5)),
        **{f"{what}_{axis}": draw(size) for what in ("stride", "dilation") for axis in ("height", "width")},
        **{f"pad_{side}": draw(st.integers(0, 3)) for side in ("top", "bottom", "left", "right")},
        groups=groups,
    )
    for axis, pads in (("height", ("top", "bottom")), ("width", ("left", "right"))):
        room = getattr(shape, axis) + sum(getattr(shape, f"pad_{side}") for side in pads)
        assume(room > (getattr(shape, f"kernel_{axis}") - 1) * getattr(shape, f"dilation_{axis}"))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = rng.normal(size=shape.weights) * (
        rng.random(shape.weights) < draw(st.sampled_from([0, 0.1, 1]))
    )
    weights[..., rng.random(shape.filters) < draw(st.sampled_from([0, 0.5]))] = 0
    weights[:, :, rng.random(shape.weights[2]) < draw(st.sampled_from([0, 0.5]))] = 0
    bias = rng.normal(size=shape.filters).astype("float32") if draw(st.booleans()) else None
    x = rng.normal(size=(draw(size), shape.height, shape.width, shape.channels)).astype("float32")
    return shape, weights.astype("float32"), bias, draw(st.sampled_from(list(core.ACTIVATIONS))), x


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_every_kernel_equals_the_plain_loops_on_any_number_of_threads(case):
    expected = core.reference(*case)
    for kernel in core.kernels():
        once = core.convolve(*case, kernel=kernel)
        np.testing.assert_allclose(once, expected, rtol=0, atol=1e-5 * (1 + np.abs(expected).max()))
        for threads in (2, 5):
            np.testing.assert_array_equal(core.convolve(*case, kernel=kernel, threads=threads), once)


@settings(max_examples=20, deadline=None)
@given(convolutions(), st.integers(0, 99))
def test_other_values_in_the_places_of_a_plan_are_as_good_as_a_new_one(case, seed):
    shape, weights, bias, activation, x = case
    values = np.random.default_rng(seed).normal(size=weights.shape).astype("float32") * (weights != 0)
    expected = core.reference(shape, values, None, activation, x)
    for kernel in core.kernels():
        _, plan = core.create(shape, weights, bias, activation, kernel)
        other = core._POINTER()
        given = core.Weights.of(weights)
        status = core.library().tfc_plan_with_values(
            plan, core.pointer(values.ravel()[given.arrays[0]]), None, core.ctypes.byref(other)
        )
        core.library().tfc_plan_destroy(plan)  # the other one goes on
        assert status == core.OK
        got = core.run(other, shape, x)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * (1 + np.abs(expected).max()))


def test_the_plain_loops_are_a_convolution():
    """Against the definition, by hand: one channel, a 2x2 kernel with gaps, stride 2, a pad at the top."""
    shape = core.Shape(
        height=4, width=3, kernel_height=2, kernel_width=2, dilation_height=2, stride_height=2, pad_top=1
    )
    x = np.arange(12, dtype="float32").reshape(1, 4, 3, 1)
    weights = np.array([1, 10, 100, 1000], "float32").reshape(2, 2, 1, 1)
    out = core.reference(shape, weights, np.array([0.5], "float32"), None, x)
    rows = [[100 * 3 + 1000 * 4, 100 * 4 + 1000 * 5], [3 + 40 + 900 + 10000, 4 + 50 + 1000 + 11000]]
    np.testing.assert_array_equal(out[0, :, :, 0], np.array(rows) + 0.5)


GOOD = {"height": 8, "width": 8, "channels": 4, "filters": 6, "kernel_height": 3, "kernel_width": 3}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"filters": 0}, core.BAD_SHAPE),
        ({"stride_width": -1}, core.BAD_SHAPE),
        ({"pad_left": -1}, core.BAD_SHAPE),
        ({"groups": 4}, core.BAD_SHAPE),
        ({"kernel_height": 9}, core.BAD_SHAPE),
        ({"dilation_width": 4}, core.BAD_SHAPE),
        ({"kernel_width": 2**30, "pad_left": 2**31 - 1}, core.TOO_LARGE),
        ({"height": 2**20, "width": 2**20}, core.TOO_LARGE),
        ({"height": 2**30, "pad_bottom": 2**30}, core.TOO_LARGE),
        ({"channels": 1, "filters": 2**25, "kernel_height": 1, "kernel_width": 1}, core.TOO_LARGE),
        ({"kernel_height": 2**20, "pad_top": 2**20}, core.TOO_LARGE),
    ],
)
def test_sizes_that_make_no_convolution_are_refused(change, status):
    weights = np.ones((3, 3, 4, 6), "float32")
    got, plan = core.create(core.Shape(**{**GOOD, **change}), weights)
    assert got == status and not plan


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["weights", "bias"])
def test_weights_that_are_not_finite_are_refused(value, where):
    arrays = {"weights": np.ones((3, 3, 4, 6), "float32"), "bias": np.zeros(6, "float32")}
    arrays[where].flat[-1] = value
    assert core.create(core.Shape(**GOOD), **arrays)[0] == core.NOT_FINITE


@pytest.mark.parametrize("activation", list(core.ACTIVATIONS))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_no_finite_numbers_go_where_weights_see_them(value, activation):
    rng = np.random.default_rng(0)
    shape = core.Shape(**{**GOOD, "height": 9, "width": 9})
    weights = (rng.normal(size=shape.weights) * (rng.random(shape.weights) < 0.4)).astype("float32")
    x = rng.normal(size=(1, 9, 9, 4)).astype("float32")
    place = np.zeros_like(x)
    place[0, 4, 4, 2] = 1
    seen = core.reference(shape, (weights != 0).astype("float32"), None, None, place) > 0
    around = core.reference(shape, weights, None, activation, np.where(place, 0, x))
    expected = core.reference(shape, weights, None, activation, np.where(place, np.float32(value), x))
    for kernel in core.kernels():
        found = core.convolve(shape, weights, None, activation, np.where(place, np.float32(value), x), kernel)
        np.testing.assert_allclose(found[seen], expected[seen], rtol=1e-5)
        if kernel.startswith("lanes"):  # in blocks of filters zeros meet it, too
            np.testing.assert_allclose(found[~seen], around[~seen], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("indices", [[-1], [3 * 3 * 4 * 6], [5, 5], [7, 2]])
def test_places_out_of_range_or_order_are_refused(indices):
    given = core.Weights(np.array(indices), np.ones(len(indices)))
    status, plan = core.create(core.Shape(**GOOD), given)
    assert status == core.BAD_ARGUMENT and not plan


def test_missing_and_unknown_arguments_are_refused():
    shape, weights = core.Shape(**GOOD), np.ones((3, 3, 4, 6), "float32")
    assert core.create(shape, None)[0] == core.BAD_ARGUMENT
    assert core.create(None, weights)[0] == core.BAD_ARGUMENT
    assert core.create(shape, weights, activation=7)[0] == core.BAD_ARGUMENT
    assert core.create(shape, weights, kernel="lanes_mmx")[0] == core.BAD_ARGUMENT
    status, plan = core.create(shape, weights)
    x, out = np.ones((1, 8, 8, 4), "float32"), np.ones((1, 6, 6, 6), "float32")
    run = core.library().tfc_plan_run
    assert status == core.OK
    assert run(plan, core.pointer(x), core.pointer(out), 1, 0) == core.BAD_ARGUMENT
    assert run(plan, core.pointer(x), core.pointer(out), -1, 1) == core.BAD_ARGUMENT
    assert run(plan, None, core.pointer(out), 1, 1) == core.BAD_ARGUMENT
    assert run(plan, None, None, 0, 1) == core.OK
    core.library().tfc_plan_destroy(plan)
    core.library().tfc_plan_destroy(None)
