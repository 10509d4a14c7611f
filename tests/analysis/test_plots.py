"""The figures of Li et al. 2017."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.analysis.plots import LEGEND_ENTRIES, sensitivity_curves, sorted_scores

FINITE = st.floats(-1e6, 1e6, allow_subnormal=False)
PNG = b"\x89PNG\r\n"


def many_layers(count):
    rng = np.random.default_rng(0)
    return {f"conv{i}_block": rng.gamma(1 + i / 10, size=16 + 2 * i) for i in range(1, count + 1)}


@given(st.lists(FINITE, min_size=1, max_size=50))
def test_scores_are_drawn_sorted_and_normalised_by_the_largest(values):
    (line,) = sorted_scores({"conv": values}).axes[0].lines
    assert (np.diff(line.get_ydata()) <= 0).all()
    assert np.abs(line.get_ydata()).max() == (1 if any(values) else 0)
    assert sorted(line.get_ydata() * (max(map(abs, values)) or 1)) == pytest.approx(sorted(values))


def test_the_rank_of_a_filter_is_in_percent_of_its_layer():
    (line,) = sorted_scores({"conv": [3, 1, 2, 4]}).axes[0].lines
    assert line.get_xdata().tolist() == [0, 25, 50, 75]
    assert line.get_ydata().tolist() == [1, 0.75, 0.5, 0.25]


def test_sensitivity_is_drawn_in_order_of_sparsity():
    (line,) = sensitivity_curves({"conv": {0.5: 0.7, 0.0: 0.9, 0.25: 0.8}}).axes[0].lines
    assert line.get_xdata().tolist() == [0, 25, 50]
    assert line.get_ydata().tolist() == [0.9, 0.8, 0.7]


def test_axes_say_what_they_show():
    axes = sensitivity_curves({"conv": {0.0: 0.9}}).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("filters pruned (%)", "accuracy")


@pytest.mark.parametrize("count", [1, 5, 50])
def test_every_layer_has_its_own_line_and_is_named_beside_the_axes(count):
    figure = sorted_scores(many_layers(count))
    lines = figure.axes[0].lines
    assert len({(line.get_linestyle(), line.get_color().tobytes()) for line in lines}) == count
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(many_layers(count))
    figure.canvas.draw()
    assert legend.get_window_extent().x0 > figure.axes[0].get_window_extent().x1
    assert legend.get_window_extent().y0 > 0


def test_more_layers_than_one_can_read_get_a_colour_bar():
    figure = sorted_scores(many_layers(LEGEND_ENTRIES + 1))
    assert figure.legends == []
    assert figure.axes[1].get_ylabel() == f"layer: 1 is conv1_block, {LEGEND_ENTRIES + 1} is conv79_block"


@pytest.mark.parametrize("name", ["figure.png", "figure.pdf", "figure"])
def test_the_figure_is_saved_in_the_format_of_its_ending_with_nothing_beside_it(tmp_path, name):
    sorted_scores({"conv": [1, 2]}, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    start = b"%PDF" if name.endswith("pdf") else PNG
    assert (tmp_path / name).read_bytes().startswith(start)


def test_a_path_may_be_a_string_and_an_older_figure_is_replaced(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    sensitivity_curves({"conv": {0.0: 0.9, 0.5: 0.8}}, str(path))
    assert path.read_bytes().startswith(PNG)


def test_a_failure_to_save_leaves_the_older_figure(tmp_path):
    path = tmp_path / "figure.unknown"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="unknown"):
        sorted_scores({"conv": [1, 2]}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["figure.unknown"]
    assert path.read_bytes() == b"old"


def test_drawing_does_not_touch_pyplot():
    before = "matplotlib.pyplot" in sys.modules
    sorted_scores({"conv": [1, 2]})
    assert ("matplotlib.pyplot" in sys.modules) == before


@pytest.mark.parametrize(
    ("draw", "argument", "message"),
    [
        (sorted_scores, {}, "nothing to draw"),
        (sensitivity_curves, {}, "nothing to draw"),
        (sorted_scores, {"conv": []}, "'conv' must be a vector with at least one entry"),
        (sorted_scores, {"conv": [[1.0], [2.0]]}, r"'conv' must be a vector.*\(2, 1\)"),
        (sensitivity_curves, {"conv": {}}, "'conv' must be a vector with at least one entry"),
        (sorted_scores, {"a": [1.0], "conv": [1.0, np.nan]}, "'conv' must be finite, but 1 of 2"),
        (sorted_scores, {"conv": [np.inf]}, "'conv' must be finite"),
        (sensitivity_curves, {"conv": {0.5: np.nan}}, "accuracies of 'conv' must be finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, argument, message):
    with pytest.raises(ValueError, match=message):
        draw(argument)
