"""From scores to masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.channels import Balance
from tfcompress.selection import Cutoff, Selection, check_sparsity

SIZES = st.lists(st.integers(1, 80), min_size=1, max_size=4)


def draw(sizes: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"group{number}": rng.random(size) for number, size in enumerate(sizes)}


@given(
    SIZES,
    st.floats(0, 0.99),
    st.sampled_from(["group", "global"]),
    st.sampled_from([1, 4, 8]),
    st.integers(0, 99),
)
def test_something_stays_and_the_best_stays_first(sizes, sparsity, scope, round_to, seed):
    scores = draw(sizes, seed)
    masks = Selection(scope=scope, round_to=round_to).masks(scores, sparsity)
    for name, mask in masks.items():
        assert 1 <= mask.sum() <= len(mask)
        assert mask.all() or scores[name][mask].min() >= scores[name][~mask].max()


@given(st.integers(1, 200), st.floats(0, 0.99), st.sampled_from([1, 2, 8, 16]))
def test_rounding_moves_a_groups_sparsity_by_a_sixteenth_at_most(size, sparsity, round_to):
    selection = Selection(round_to=round_to)
    count = selection.rounded(size * (1 - sparsity), size)
    assert count == size or count % selection.step(size) == 0
    if size >= 8 and count > selection.step(size):  # the least that stays
        assert abs(count - size * (1 - sparsity)) <= max(size / 16, 1)


def test_wide_groups_keep_multiples_of_eight():
    masks = Selection().masks(draw([64, 100, 256]), 0.37)
    assert [int(mask.sum()) for mask in masks.values()] == [40, 64, 160]


def test_uniform_sparsity_without_rounding_is_exact():
    masks = Selection(round_to=1).masks(draw([10, 30]), 0.3)
    assert [int(mask.sum()) for mask in masks.values()] == [7, 21]


def test_groups_a_dict_does_not_name_stay_whole():
    masks = Selection(round_to=1).masks(draw([10, 10]), {"group1": 0.5})
    assert [int(mask.sum()) for mask in masks.values()] == [10, 5]


def test_global_ranking_takes_more_where_scores_are_low_and_stops_at_the_floor():
    scores = {"rich": np.linspace(0.9, 1.1, 20), "poor": np.array([1e-6] * 18 + [5.0, 5.0])}
    masks = Selection(scope="global", round_to=1, floor=0.2).masks(scores, 0.45)
    assert int(masks["rich"].sum()) == 20 and int(masks["poor"].sum()) == 4


def test_global_ranking_does_not_depend_on_the_scale_of_a_groups_scores():
    scores = draw([20, 20])
    scaled = {**scores, "group1": 1000 * scores["group1"]}
    selection = Selection(scope="global", round_to=1)
    first, second = selection.masks(scores, 0.5), selection.masks(scaled, 0.5)
    assert all((first[name] == second[name]).all() for name in scores)


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize("sparsity", [0.9, {"g": 0.9}, lambda scores: scores > 8.5])
def test_floor_holds_whatever_is_asked_for(scope, sparsity):
    mask = Selection(scope=scope, round_to=1, floor=0.5).masks({"g": np.arange(10.0)}, sparsity)["g"]
    assert mask.nonzero()[0].tolist() == [5, 6, 7, 8, 9]


def test_rounding_does_not_fall_below_the_floor():
    assert int(Selection(floor=0.3).masks(draw([64]), 0.9)["group0"].sum()) == 24  # 19.2 would round to 16


def test_balance_does_not_push_a_group_below_the_floor():
    blocks = Balance(({"a": np.ones(8, int)}, {"b": np.ones(8, int)}), (0, 0))
    scores = {"a": np.arange(8.0), "b": np.arange(8.0)}
    masks = Selection(round_to=1, floor=0.5).masks(scores, {"a": 0.1, "b": 0.9}, [blocks])
    assert [int(mask.sum()) for mask in masks.values()] == [4, 4]


def test_of_equal_scores_the_lower_index_stays():
    assert Selection(round_to=1).masks({"g": np.ones(4)}, 0.5)["g"].tolist() == [True, True, False, False]


def test_cutoff_removes_what_lies_a_deviation_below_the_mean():
    scores = np.array([0.0, 1.0, 1.0, 1.0, 1.0])
    assert Cutoff(1.0)(scores).tolist() == [False, True, True, True, True]
    assert Cutoff(3.0)(scores).all() and Cutoff()(np.ones(5)).all()


def balance(blocks: list[list[int]], size: int, fixed: int = 0) -> Balance:
    weights = [np.isin(np.arange(size), block).astype(int) for block in blocks]
    return Balance(tuple({"g": w} for w in weights), (fixed,) * len(blocks))


@given(st.integers(2, 4), st.integers(2, 8), st.floats(0.1, 0.9), st.integers(0, 99))
def test_blocks_keep_equal_numbers_of_their_best(groups, width, sparsity, seed):
    scores = {"g": np.random.default_rng(seed).random(groups * width)}
    blocks = np.arange(groups * width).reshape(groups, width)
    mask = Selection(round_to=1).masks(scores, sparsity, [balance(blocks.tolist(), groups * width)])["g"]
    counts = {int(mask[block].sum()) for block in blocks}
    assert len(counts) == 1 and counts.pop() >= 1
    for block in blocks:
        if not mask[block].all():
            assert scores["g"][block][mask[block]].min() >= scores["g"][block][~mask[block]].max()


@given(st.integers(2, 4), st.integers(1, 3), st.floats(0.1, 0.8), st.integers(0, 50))
def test_two_partitions_across_each_other_are_both_balanced(groups, times, sparsity, seed):
    size = groups * groups * times
    grid = np.arange(size).reshape(groups, groups * times)
    shuffled = grid.T.ravel().reshape(groups, -1)
    balances = [balance(grid.tolist(), size), balance(shuffled.tolist(), size)]
    scores = {"g": np.random.default_rng(seed).random(size)}
    mask = Selection(round_to=1).masks(scores, sparsity, balances)["g"]
    assert all(len(set(b.counts({"g": mask}))) == 1 for b in balances) and mask.any()


def test_locked_channels_in_a_block_count_as_staying():
    first, second = np.array([1, 1, 1, 1]), np.zeros(4, int)
    uneven = Balance(({"g": first}, {"g": second}), (0, 2))
    mask = Selection(round_to=1).masks({"g": np.arange(4.0)}, 0.25, [uneven])["g"]
    assert mask.tolist() == [False, False, True, True]


def test_balance_that_cannot_be_kept_with_less_leaves_the_group_whole():
    lopsided = Balance(({"g": np.array([2, 0, 0])}, {"g": np.array([0, 1, 1])}), (0, 0))
    assert Selection(round_to=1).masks({"g": np.arange(3.0)}, 0.5, [lopsided])["g"].all()


def test_mask_too_small_for_a_balance_grows_by_as_little_as_it_takes():
    thirds = balance([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], 12)
    mask = Selection(round_to=1).masks({"g": np.arange(12.0)}, 0.9, [thirds])["g"]
    assert mask.nonzero()[0].tolist() == [3, 7, 11]


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 2, float("nan"), "half", {"conv": 1.5}, None, Cutoff])
def test_sparsity_outside_zero_to_one_is_refused(sparsity):
    with pytest.raises(ValueError, match=r"number in \[0, 1\)"):
        check_sparsity(sparsity)


def test_sparsity_that_names_nothing_is_refused():
    with pytest.raises(ValueError, match="empty dict"):
        check_sparsity({})


@pytest.mark.parametrize("sparsity", [{"conv": 0.5}, Cutoff()])
def test_ranking_over_all_groups_takes_no_sparsity_per_group(sparsity):
    with pytest.raises(ValueError, match="ranks all groups together by one number"):
        check_sparsity(sparsity, "global")


@pytest.mark.parametrize("sparsity", [lambda s: 3, lambda s: s, lambda s: s[1:] > 0])
def test_function_that_gives_no_mask_is_refused(sparsity):
    with pytest.raises(ValueError, match="gives a bool array of the shape of the scores"):
        Selection().masks({"g": np.arange(4.0)}, sparsity)


@pytest.mark.parametrize(
    "settings",
    [
        {"scope": "all"},
        {"pool": "median"},
        {"pool": ["mean"]},
        {"round_to": 0},
        {"round_to": "8"},
        {"round_to": float("inf")},
        {"floor": 1.5},
        {"floor": "half"},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Selection(**settings)


@given(SIZES, st.integers(1, 60), st.sampled_from([1, 4, 8]), st.integers(0, 99))
def test_removing_the_lowest_round_by_round(sizes, count, round_to, seed):
    selection = Selection(round_to=round_to, floor=0.2, scale="none")
    scores, first = draw(sizes, seed), dict(zip(draw(sizes), sizes, strict=True))
    for _ in range(5):
        masks = selection.without_lowest(scores, count, first)
        removed = sum(int((~mask).sum()) for mask in masks.values())
        for name, mask in masks.items():
            step = selection.step(first[name])
            assert mask.sum() >= min(selection.least(first[name]), len(mask))
            assert mask.all() or (
                mask.sum() % step == 0 and scores[name][mask].min() >= scores[name][~mask].max()
            )
        if removed < count:  # all are at their floors
            assert all(int(mask.sum()) <= selection.least(first[name]) for name, mask in masks.items())
        else:
            assert removed < count + max(map(selection.step, sizes))
        scores = {name: values[masks[name]] for name, values in scores.items()}


def test_the_lowest_of_all_groups_go_first_as_they_are_or_scaled():
    scores = {"a": np.array([1.0, 2.0, 3.0, 4.0]), "b": np.array([10.0, 100.0, 100.0, 100.0])}
    sizes = dict.fromkeys(scores, 4)
    plain = Selection(round_to=1, scale="none").without_lowest(scores, 2, sizes)
    assert plain["a"].tolist() == [False, False, True, True] and plain["b"].all()
    scaled = Selection(round_to=1).without_lowest(scores, 2, sizes)
    assert scaled["a"].tolist() == [False, True, True, True]
    assert scaled["b"].tolist() == [False, True, True, True]
