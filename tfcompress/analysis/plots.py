"""The two figures that tell how much of each layer can go, after Li et al. 2017.

>>> figure = sorted_scores({"conv1": [3.0, 1.0, 2.0], "conv2": [5.0, 4.9, 0.1]})
>>> figure.axes[0].lines[0].get_ydata().round(2).tolist()
[1.0, 0.67, 0.33]

A figure needs no display and changes nothing global. Scores and accuracies are plain numbers, so
that any criterion and any sensitivity analysis can be drawn.

Reference: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, figure 2.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE_STYLES = ("-", "--", ":", "-.")
LEGEND_ROWS = 26
LEGEND_ENTRIES = 78  # beyond it the colours alone tell first layers from last


def sorted_scores(scores: Mapping[str, Any], path: str | os.PathLike | None = None) -> "Figure":
    """Draws the scores of each layer's filters, sorted and divided by the layer's largest.

    A curve that falls at once has few important filters; one that stays high has no filter to
    spare. Li et al., figure 2(a), draw it for the L1 norm.

    Args:
        scores: layer name -> scores of its filters, `(filters,)`, as a criterion returns them.
        path: where to save the figure; its ending gives the format, as `.png` or `.pdf`.

    Returns:
        The `matplotlib.figure.Figure`: the filter's rank in percent of the layer's filters
        against score / max |score|.

    Raises:
        ValueError: there are no scores, a layer has none, or one is not finite.
    """
    curves = {name: _sorted_curve(name, values) for name, values in scores.items()}
    return _figure(curves, "filters, sorted by score (%)", "score / largest of the layer", path)


def sensitivity_curves(
    result: Mapping[str, Mapping[float, float]], path: str | os.PathLike | None = None
) -> "Figure":
    """Draws the accuracy left when each group is pruned alone, against its sparsity.

    Groups whose curve stays flat can be pruned hard, steep ones should be skipped (Li et al.,
    figure 2(b)).

    Args:
        result: group name -> {sparsity in [0, 1]: accuracy}. Any other metric will do.
        path: where to save the figure; its ending gives the format, as `.png` or `.pdf`.

    Returns:
        The `matplotlib.figure.Figure`: sparsity in percent against the metric.

    Raises:
        ValueError: there are no groups, a group has no points, or a number is not finite.

    >>> figure = sensitivity_curves({"stem": {0.0: 0.9, 0.5: 0.6}, "body": {0.0: 0.9, 0.5: 0.88}})
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['stem', 'body']
    """
    curves = {name: _sensitivity_curve(name, points) for name, points in result.items()}
    return _figure(curves, "filters pruned (%)", "accuracy", path)


def runs_by_method(
    values: Mapping[str, Any], *, reference: Any = None, path: str | os.PathLike | None = None
) -> "Figure":
    """Draws what several methods came to over several runs: each run, and the mean with its spread.

    Args:
        values: method -> the figures of its runs, `(runs,)`, such as accuracies. Methods are drawn in this
            order, from the top.
        reference: the figures of what all are compared with, `(runs,)`, such as the dense network: their mean
            is a line.
        path: where to save the figure; its ending gives the format, as `.png` or `.pdf`.

    Returns:
        The `matplotlib.figure.Figure`; bars are one standard deviation of the sample.

    Raises:
        ValueError: there are no methods, one has no runs, or a figure is not finite.

    >>> figure = runs_by_method({"l1": [0.71, 0.72], "random": [0.69, 0.71]}, reference=[0.75])
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['l1', 'random']
    """
    arrays = {name: _checked(f"The runs of '{name}'", runs) for name, runs in values.items()}
    if not arrays:
        raise ValueError("There is nothing to draw: the mapping is empty.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 1 + 0.3 * len(arrays)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, runs in enumerate(arrays.values()):
        spread = runs.std(ddof=1) if len(runs) > 1 else 0.0
        axes.errorbar(runs.mean(), place, xerr=spread, fmt="o", color="C0", capsize=3)
        axes.plot(runs, [place] * len(runs), ".", color="black", markersize=3)
    if reference is not None:
        axes.axvline(_checked("The reference", reference).mean(), color="grey", linestyle="--")
    axes.set_yticks(range(len(arrays)), list(arrays))
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    if path is not None:
        _save(figure, Path(path))
    return figure


Curve = tuple[np.ndarray, np.ndarray]


def _sorted_curve(name: str, values: Any) -> Curve:
    values = _checked(f"The scores of '{name}'", values)
    largest = np.abs(values).max()
    return 100 * np.arange(len(values)) / len(values), np.sort(values)[::-1] / (largest or 1)


def _sensitivity_curve(name: str, points: Mapping[float, float]) -> Curve:
    sparsities = _checked(f"The sparsities of '{name}'", list(points))
    order = np.argsort(sparsities)
    return 100 * sparsities[order], _checked(f"The accuracies of '{name}'", list(points.values()))[order]


def _checked(what: str, values: Any) -> np.ndarray:
    """`values` as a vector of finite numbers."""
    array = np.asarray(values, float)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{what} must be a vector with at least one entry, got shape {array.shape}.")
    if not np.isfinite(array).all():
        count = np.count_nonzero(~np.isfinite(array))
        raise ValueError(f"{what} must be finite, but {count} of {array.size} are NaN or infinite.")
    return array


def _figure(curves: dict[str, Curve], x_label: str, y_label: str, path: str | os.PathLike | None) -> "Figure":
    """One line per layer, coloured from the first layer to the last."""
    if not curves:
        raise ValueError("There is nothing to draw: the mapping is empty.")
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = -(-len(curves) // LEGEND_ROWS) if len(curves) <= LEGEND_ENTRIES else 1
    figure = Figure(figsize=(6.5 + 1.8 * columns, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = colormaps["turbo"](np.linspace(0, 1, len(curves)))
    for number, (name, (x, y)) in enumerate(curves.items()):
        style = LINE_STYLES[number % len(LINE_STYLES)]
        marker = "o" if len(x) == 1 else ""
        axes.plot(x, y, style, color=colours[number], label=name, lw=1.5, marker=marker)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    _explain_colours(figure, axes, list(curves), columns)
    if path is not None:
        _save(figure, Path(path))
    return figure


def _explain_colours(figure: "Figure", axes: Any, names: list[str], columns: int) -> None:
    """A legend beside the axes; a colour bar where there are too many names to read."""
    if len(names) <= LEGEND_ENTRIES:
        figure.legend(loc="outside right upper", ncols=columns, fontsize=7, frameon=False, handlelength=3)
        return
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(ScalarMappable(Normalize(1, len(names)), "turbo"), ax=axes)
    bar.set_label(f"layer: 1 is {names[0]}, {len(names)} is {names[-1]}")


def _save(figure: "Figure", path: Path) -> None:
    """Writes the file under another name first, so that a failure leaves no half of it."""
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix or '.png'}")
    try:
        figure.savefig(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
