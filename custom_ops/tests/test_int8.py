"""Every int8 kernel computes what the plain loop nest does, bit for bit, and bad input is a status."""

import platform
import subprocess
import sys
from pathlib import Path

import core
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_core import GOOD, convolutions

BYTES = st.integers(-128, 127)
KERNELS = "int8_"


@st.composite
def cases(draw):
    """A convolution in int8 and maps for it, from one in float32."""
    shape, weights, bias, _, x = draw(convolutions())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    small = np.where(weights == 0, 0, rng.integers(-127, 128, weights.shape)).astype("int8")
    whole = None if bias is None else rng.integers(-(2**16), 2**16, shape.filters).astype("int32")
    low, high = sorted((draw(BYTES), draw(BYTES)))
    scales = np.exp(rng.uniform(-12, -4, shape.filters)) * draw(st.sampled_from([1.0, 1e6]))
    requantization = core.Requantization(scales, draw(BYTES), draw(BYTES), low, high)
    return core.Int8Convolution(shape, small, whole, requantization), rng.integers(-128, 128, x.shape).astype(
        "int8"
    )


@settings(max_examples=60, deadline=None)
@given(cases())
def test_every_kernel_equals_the_plain_loops_on_any_number_of_threads(case):
    convolution, x = case
    expected = convolution.reference(x)
    for kernel in core.kernels(KERNELS):
        for threads in (1, 2, 5):
            np.testing.assert_array_equal(convolution.run(x, kernel, threads), expected)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_words_and_their_halves_and_quarters_are_counted(case):
    convolution, _ = case
    shape, weights = convolution.shape, convolution.weights
    counts = convolution.counts()
    depth, filters = weights.shape[2], weights.shape[3]
    first = np.arange(filters) // (filters // shape.groups) * depth  # the channel that a filter begins with
    for size, found in ((4, counts.weights), (2, counts.halves), (1, counts.quarters)):
        row, column, channel, filter_ = np.nonzero(weights)
        places = {*zip(row, column, (first[filter_] + channel) // size, filter_, strict=True)}
        assert found == len(places)


MULTIPLIERS = st.integers(-(2**22), 2**22)


@settings(max_examples=30, deadline=None)
@given(cases(), st.data())
def test_every_kernel_adds_a_residual(case, data):
    convolution, x = case
    low, high = sorted((data.draw(BYTES), data.draw(BYTES)))
    multipliers = data.draw(MULTIPLIERS), data.draw(MULTIPLIERS)
    addition = core.Addition(
        data.draw(st.integers(1 - 2**30, 2**30 - 1)),
        *multipliers,
        data.draw(st.integers(1, 31)),
        data.draw(BYTES),
        low,
        high,
    )
    outputs = convolution.reference(x)
    residual = np.random.default_rng(0).integers(-128, 128, outputs.shape).astype("int8")
    expected, adding = addition.to(outputs, residual), convolution._replace(addition=addition)
    for kernel in core.kernels(KERNELS):
        for threads in (1, 3):
            np.testing.assert_array_equal(adding.run(x, kernel, threads, residual), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"bias": 2**30},
        {"bias": -(2**30)},
        {"output_multiplier": -(2**22) - 1},
        {"residual_multiplier": 2**22 + 1},
        {"shift": 32},
        {"shift": 0},
        {"zero": 128},
        {"low": 5, "high": 4},
    ],
)
def test_bad_additions_are_refused(change):
    given = {"output_multiplier": 1, "residual_multiplier": 1, "shift": 1, "low": -128, "high": 127}
    case = core.Int8Convolution(
        core.Shape(),
        np.ones((1, 1, 1, 1), "int8"),
        None,
        core.Requantization([1.0]),
        core.Addition(**given | change),
    )
    got, plan = case.plan()
    assert got == core.BAD_ARGUMENT and not plan


@pytest.mark.parametrize("adds", [True, False])
def test_a_residual_is_given_where_it_is_added(adds):
    addition = core.Addition(0, 1, 1, 1, 0, -128, 127) if adds else None
    case = core.Int8Convolution(
        core.Shape(), np.ones((1, 1, 1, 1), "int8"), None, core.Requantization([1.0]), addition
    )
    _, plan = case.plan()
    x = np.zeros((1, 1, 1, 1), "int8")
    maps = core.pointer(x), None if adds else core.pointer(x), core.pointer(np.empty_like(x))
    assert core.library().tfc_int8_plan_run(plan, *maps, 1, 1) == core.BAD_ARGUMENT
    core.library().tfc_plan_destroy(plan)


def test_the_plain_loops_are_the_formula():
    shape = core.Shape(height=1, width=3, channels=2, filters=2, kernel_width=2, pad_right=1)
    weights = np.array([[1, -2], [3, 4], [-5, 6], [7, -128]], "int8").reshape(shape.weights)
    bias = np.array([100, -100000], "int32")
    requantization = core.Requantization(np.array([0.5, 0.01]), 3, -7, -100, 90)
    x = np.array([[-128, 127], [5, -6], [3, 4]], "int8").reshape(1, 1, 3, 2)
    out = core.Int8Convolution(shape, weights, bias, requantization).reference(x)
    shifted = np.concatenate([x[0, 0].astype(int) - 3, [[0, 0]]])
    for place in range(3):
        sums = bias + shifted[place : place + 2].ravel() @ weights.reshape(4, 2).astype(int)
        scaled = np.round(sums * np.array([0.5, 0.01], "float32"))
        np.testing.assert_array_equal(out[0, 0, place], np.clip(scaled - 7, -100, 90))


@pytest.mark.parametrize("kernel", core.kernels(KERNELS))
@pytest.mark.parametrize(("sum_", "expected"), [(1, 0), (3, 2), (5, 2), (-1, 0), (-3, -2), (7, 4)])
def test_halves_are_rounded_to_even(kernel, sum_, expected):
    case = core.Int8Convolution(core.Shape(), np.ones((1, 1, 1, 1), "int8"), None, core.Requantization([0.5]))
    assert case.run(np.full((1, 1, 1, 1), sum_, "int8"), kernel).item() == expected


@pytest.mark.parametrize("kernel", core.kernels(KERNELS))
@pytest.mark.parametrize("scale", [1e30, 3e38])
def test_sums_far_beyond_bounds_are_the_bounds(kernel, scale):
    """Where a whole number of 32 bits, or even a float, has no room for them."""
    weights = np.array([127, -127, 0], "int8").reshape(1, 1, 1, 3)
    case = core.Int8Convolution(
        core.Shape(filters=3), weights, None, core.Requantization(np.full(3, scale), 0, 100, -50, 120)
    )
    np.testing.assert_array_equal(
        case.run(np.full((1, 1, 1, 1), 99, "int8"), kernel).ravel(), [120, -50, 100]
    )


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"input_zero": 128}, core.BAD_ARGUMENT),
        ({"output_zero": -129}, core.BAD_ARGUMENT),
        ({"low": 5, "high": 4}, core.BAD_ARGUMENT),
        ({"high": 300}, core.BAD_ARGUMENT),
        ({"scales": np.zeros(6)}, core.BAD_ARGUMENT),
        ({"scales": np.full(6, -1)}, core.BAD_ARGUMENT),
        ({"scales": np.full(6, np.nan)}, core.NOT_FINITE),
        ({"scales": np.full(6, np.inf)}, core.NOT_FINITE),
    ],
)
def test_bad_requantizations_are_refused(change, status):
    requantization = core.Requantization(**{"scales": np.ones(6), **change})
    case = core.Int8Convolution(core.Shape(**GOOD), np.ones((3, 3, 4, 6), "int8"), None, requantization)
    for kernel in [None, *core.kernels(KERNELS)]:
        got, plan = case.plan(kernel)
        assert got == status and not plan


WITHOUT_AMX = """
import sys
sys.path[:0] = sys.argv[1:]
import without_amx
without_amx.forbid()
import core
import numpy as np
names = core.kernels("int8_")
assert not [name for name in names if "amx" in name], names
case = core.Int8Convolution(core.Shape(), np.ones((1, 1, 1, 1), "int8"), None, core.Requantization([1.0]))
assert case.run(np.full((1, 1, 1, 1), 5, "int8")).item() == 5
if "int8_lanes_avx512amx" in core.compiled("int8_"):
    assert case.plan("int8_lanes_avx512amx")[0] == core.NOT_ON_THIS_CPU
"""


@pytest.mark.skipif(platform.system() != "Linux" or platform.machine() != "x86_64", reason="no such call")
def test_where_a_process_may_not_use_amx_other_kernels_compute():
    tests = Path(__file__).parent
    command = [sys.executable, "-c", WITHOUT_AMX, tests, tests.parent / "bench"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_plans_of_one_type_do_not_run_maps_of_the_other():
    requantization = core.Requantization(np.ones(6))
    case = core.Int8Convolution(core.Shape(**GOOD), np.ones((3, 3, 4, 6), "int8"), None, requantization)
    _, plan = case.plan()
    _, other = core.create(core.Shape(**GOOD), np.ones((3, 3, 4, 6), "float32"))
    x, out = np.zeros((1, 8, 8, 4), "float32"), np.zeros((1, 6, 6, 6), "float32")
    given, result = core.pointer(x), core.pointer(out)
    assert core.library().tfc_plan_run(plan, given, result, 1, 1) == core.BAD_ARGUMENT
    assert core.library().tfc_int8_plan_run(other, given, None, result, 1, 1) == core.BAD_ARGUMENT
    for each in (plan, other):
        core.library().tfc_plan_destroy(each)


def test_kernels_of_one_type_are_not_those_of_the_other():
    case = core.Int8Convolution(core.Shape(), np.ones((1, 1, 1, 1), "int8"), None, core.Requantization([1.0]))
    assert case.plan("blocks_portable")[0] == core.BAD_ARGUMENT
    assert (
        core.create(core.Shape(), np.ones((1, 1, 1, 1), "float32"), kernel="int8_blocks_portable")[0]
        != core.OK
    )
