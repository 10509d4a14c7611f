"""Channels are dealt out as in ShuffleNet."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.layers import ChannelShuffle

SIZES = st.integers(1, 8), st.integers(1, 8)


def shuffled(groups: int, channels: np.ndarray) -> np.ndarray:
    return np.asarray(ChannelShuffle(groups)(channels.astype("float32")[None, None, None]))[0, 0, 0]


@given(*SIZES)
def test_dealing_by_the_number_in_each_group_undoes_it(groups, each):
    channels = np.arange(groups * each)
    np.testing.assert_array_equal(shuffled(each, shuffled(groups, channels)), channels)


@given(*SIZES)
def test_with_enough_channels_every_group_sees_every_other(groups, each):
    group_before = shuffled(groups, np.repeat(np.arange(groups), groups * each))
    for group in group_before.reshape(groups, -1):
        np.testing.assert_array_equal(np.unique(group), np.arange(groups))


@pytest.mark.parametrize("groups", [0, 2.5, "2", None])
def test_bad_groups(groups):
    with pytest.raises(ValueError, match="groups"):
        ChannelShuffle(groups)


def test_channels_that_do_not_divide():
    with pytest.raises(ValueError, match="7"):
        shuffled(3, np.arange(7))
