"""From scores to masks: which channels stay.

>>> import numpy as np
>>> scores = {"conv": np.array([3.0, 1.0, 2.0, 4.0])}
>>> Selection(round_to=1).masks(scores, 0.5)["conv"]
array([ True, False, False,  True])
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, sparse

from tfcompress._checks import check_choice, check_number, check_whole, is_number

Scores = Mapping[str, np.ndarray]
Masks = dict[str, np.ndarray]
Sparsity = float | Mapping[str, float] | Callable[[np.ndarray], np.ndarray]

SCOPES = ("group", "global")
NODE_LIMIT = 1000  # of the integer programs; a limit on time would make results depend on the machine
SCALES: dict[str, Callable] = {
    "mean": lambda scores: scores / (np.abs(scores).mean() or 1.0),
    "none": lambda scores: scores,
}
POOLS: dict[str, Callable] = {"mean": np.mean, "max": np.max, "min": np.min, "sum": np.sum}


@dataclass(frozen=True)
class Cutoff:
    """A sparsity that follows the scores: removes what lies far below the group's mean.

    Removed are entries whose score is at most `mean - deviations * standard deviation`. With the
    APoZ criterion, whose score is `1 - APoZ`, that is the paper's rule, APoZ at least one standard
    deviation above the mean (Hu et al. 2016, section 3.2).

    >>> Cutoff(1.0)(np.array([0.0, 1.0, 1.0, 1.0]))
    array([False,  True,  True,  True])
    """

    deviations: float = 1.0

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        spread = scores.std()
        keep = scores > scores.mean() - self.deviations * spread
        return keep if spread > 0 else np.ones(len(scores), bool)


@dataclass(frozen=True)
class Selection:
    """How scores become masks.

    Args:
        scope: `"group"`: every group loses the same share. `"global"`: one ranking over all groups.
        scale: in a ranking over all groups, `"mean"` first divides each group's scores by their mean
            absolute value, since those of different layers mostly do not compare; `"none"` takes them
            as they are, for criteria that say that theirs do.
        round_to: numbers of channels that stay are multiples of this, because odd widths run
            slower. A group narrower than eight times that is rounded to a smaller power of two,
            so that rounding moves its sparsity by 1/16 at most.
        floor: the smallest share of a group that stays, whatever sparsity or budget asks for; at
            least one channel always does.
        pool: how the scores of coupled layers become one: `"mean"`, `"max"`, `"min"` or `"sum"`.

    Raises:
        ValueError: a setting is out of range.
    """

    scope: str = "group"
    round_to: int = 8
    floor: float = 0.1
    pool: str = "mean"
    scale: str = "mean"

    def __post_init__(self):
        check_choice("scope", self.scope, SCOPES)
        check_choice("pool", self.pool, POOLS)
        check_choice("scale", self.scale, SCALES)
        check_whole("round_to", self.round_to)
        check_number("floor", self.floor, "[0, 1]")

    def masks(self, scores: Scores, sparsity: Sparsity, balances: Sequence[Any] = ()) -> Masks:
        """Returns group name -> bool array `(size,)`, True where the channel stays.

        Args:
            scores: group name -> `(size,)` scores, higher = keep. Ties go to the lower index.
            sparsity: the share to remove; or group name -> share; or a function from scores to a
                mask, such as `Cutoff`.
            balances: blocks that must keep equal numbers (`tfcompress.channels.Balance`). Groups
                in them may lose a little more than asked for.
        """
        least = {name: self.least(len(values)) for name, values in scores.items()}
        if callable(sparsity):
            masks = {name: _asked(sparsity, values, least[name]) for name, values in scores.items()}
            return _fit(masks, scores, {}, least, balances)
        counts = self.counts(scores, sparsity)
        masks = {name: _top(values, counts[name]) for name, values in scores.items()}
        steps = {name: self.step(len(values)) for name, values in scores.items()}
        return _fit(masks, scores, steps, least, balances)

    def without_lowest(
        self, scores: Scores, count: int, sizes: Mapping[str, int], balances: Sequence[Any] = ()
    ) -> Masks:
        """Masks that remove the `count` lowest entries of one ranking over all groups, whatever the scope.

        A group loses entries a step at a time (see `round_to`), which count as their mean: so widths are
        multiples of it at any time, and a few entries more may go than were asked for.

        Args:
            scores: group name -> `(size,)` scores, higher = keep.
            count: how many entries to remove.
            sizes: group name -> size at the beginning, of which the floor is a share.
            balances: see `masks`.
        """
        steps = {name: self.step(size) for name, size in sizes.items()}
        least = {name: min(self.least(sizes[name]), len(values)) for name, values in scores.items()}
        bundles = [
            (values[bundle].mean(), name, bundle)
            for name, values in self.scaled(scores).items()
            for bundle in _bundles(values, steps[name], least[name])
        ]
        masks = {name: np.ones(len(values), bool) for name, values in scores.items()}
        removed = 0
        for _, name, bundle in sorted(bundles, key=lambda bundle: bundle[0]):
            if removed >= count:
                break
            masks[name][bundle] = False
            removed += len(bundle)
        return _fit(masks, scores, steps, least, balances)

    def scaled(self, scores: Scores) -> Scores:
        """The scores as they go into one ranking over all groups."""
        return {name: SCALES[self.scale](values) for name, values in scores.items()}

    def counts(self, scores: Scores, sparsity: float | Mapping[str, float]) -> dict[str, int]:
        """How many entries of each group stay."""
        sizes = {name: len(values) for name, values in scores.items()}
        if isinstance(sparsity, Mapping):
            wanted = {name: size * (1 - sparsity.get(name, 0.0)) for name, size in sizes.items()}
        elif self.scope == "global":
            wanted = _global_counts(self.scaled(scores), sparsity)
        else:
            wanted = {name: size * (1 - sparsity) for name, size in sizes.items()}
        return {name: max(self.rounded(wanted[name], size), self.least(size)) for name, size in sizes.items()}

    def least(self, size: int) -> int:
        """The fewest entries of a group of `size` that stay: the floor, as a multiple of the group's step."""
        step = self.step(size)
        return min(size, step * max(1, math.ceil(self.floor * size / step - 1e-9)))

    def rounded(self, count: float, size: int) -> int:
        """`count` as a multiple of the group's step, between one step and `size`."""
        if count >= size:
            return size
        step = self.step(size)
        return int(min(size, max(1, step * round(count / step), min(step, size))))

    def step(self, size: int) -> int:
        """The multiple that numbers of a group of `size` are rounded to."""
        step = int(self.round_to)
        while step > 1 and step * 8 > size:
            step = step // 2
        return step


def check_sparsity(sparsity: Any, scope: str = "group") -> None:
    """Raises `ValueError` unless every share is a number in [0, 1), and fits the selection's scope."""
    if isinstance(sparsity, Mapping) and not sparsity:
        raise ValueError(
            "The sparsity is an empty dict: name the layers to prune, or give one number for all."
        )
    function = callable(sparsity) and not isinstance(sparsity, type)
    for share in sparsity.values() if isinstance(sparsity, Mapping) else [] if function else [sparsity]:
        if not is_number(share, "[0, 1)"):
            raise ValueError(
                "A sparsity is the share to remove, a number in [0, 1), a dict from layers to numbers, or a "
                f"function such as Cutoff(), got {share!r}."
            )
    if scope == "global" and (function or isinstance(sparsity, Mapping)):
        raise ValueError(
            "Selection(scope='global') ranks all groups together by one number; a sparsity for each group, "
            f"{sparsity!r}, needs scope='group'."
        )


def _global_counts(scaled: Scores, sparsity: float) -> dict[str, float]:
    ranked = np.sort(np.concatenate(list(scaled.values())))
    threshold = ranked[min(round(sparsity * len(ranked)), len(ranked) - 1)]
    return {name: float((values >= threshold).sum()) for name, values in scaled.items()}


def _top(scores: np.ndarray, count: int) -> np.ndarray:
    """The mask of the `count` highest scores; of equal ones the lower index stays."""
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


def _bundles(scores: np.ndarray, step: int, least: int) -> list[np.ndarray]:
    """The entries that may go, the lowest first, in bundles after which a multiple of `step` stays."""
    order = np.argsort(-scores, kind="stable")[::-1]
    stops = range(len(scores) - (len(scores) - 1) // step * step, len(scores) - least + 1, step)
    return [order[max(stop - step, 0) : stop] for stop in stops]


def _asked(sparsity: Callable[[np.ndarray], np.ndarray], scores: np.ndarray, least: int) -> np.ndarray:
    """The mask that the function makes of scores, with at least so many entries.

    Raises:
        ValueError: it is no mask.
    """
    mask = np.asarray(sparsity(scores))
    if mask.shape != scores.shape or mask.dtype != bool:
        raise ValueError(
            f"A sparsity that is a function gives a bool array of the shape of the scores, {scores.shape}, "
            f"got {mask.dtype} {mask.shape} from {sparsity!r}."
        )
    return mask if mask.sum() >= least else mask | _top(scores, least)


# ------------------------------------------------------------------ equal numbers per block


def _fit(
    masks: Masks,
    scores: Scores,
    steps: Mapping[str, int],
    least: Mapping[str, int],
    balances: Sequence[Any],
) -> Masks:
    """Changes masks as little as their sizes allow until every balance holds."""
    involved = [b for b in balances if any(name in masks for block in b.blocks for name in block)]
    if all(len(set(balance.counts(masks))) == 1 for balance in involved):
        return masks
    names = sorted({name for b in involved for block in b.blocks for name in block if name in masks})
    bound = {name: masks[name] for name in names}
    found = _solve(bound, scores, steps, least, involved, may_grow=False)
    return {**masks, **(found or _solve(bound, scores, {}, least, involved, may_grow=True) or {})}


def _solve(
    masks: Masks,
    scores: Scores,
    steps: Mapping[str, int],
    least: Mapping[str, int],
    balances: Sequence[Any],
    *,
    may_grow: bool,
) -> Masks | None:
    """The best-scored masks, none larger than in `masks`, that satisfy the balances.

    An integer program: one binary variable per entry; per group the number of steps it keeps, and
    the number of entries by which it exceeds its mask. Keeping one more entry always beats keeping better
    ones, and exceeding a mask is worse than any loss.

    Args:
        steps: group name -> what the number of entries that stay must be a multiple of.
        least: group name -> how many entries stay at least.
        may_grow: whether a mask may be exceeded where the balances cannot hold otherwise.

    Returns:
        The masks, or None if there are none.
    """
    names, sizes = list(masks), [len(mask) for mask in masks.values()]
    starts = dict(zip(names, np.cumsum([0, *sizes]), strict=False))
    entries, groups = sum(sizes), len(names)
    rows, lower, upper = [], [], []

    def constrain(coefficients: dict[int, float], low: float, high: float) -> None:
        rows.append(coefficients)
        lower.append(low)
        upper.append(high)

    for number, (name, mask) in enumerate(masks.items()):
        own = {starts[name] + i: 1.0 for i in range(len(mask))}
        constrain(own, least[name], np.inf)
        constrain({**own, entries + groups + number: -1.0}, -np.inf, mask.sum())
        step = steps.get(name, 1)
        if step > 1 and not mask.all():
            constrain({**own, entries + number: -float(step)}, 0, 0)
    for balance in balances:
        first, *others = _block_rows(balance, starts)
        for other in others:
            difference = {i: first[0].get(i, 0) - other[0].get(i, 0) for i in {*first[0], *other[0]}}
            constrain(difference, other[1] - first[1], other[1] - first[1])
    matrix = sparse.lil_array((len(rows), entries + 2 * groups))
    for row, coefficients in enumerate(rows):
        for column, value in coefficients.items():
            matrix[row, column] = value
    gain = np.concatenate([1 + _ranks(scores[name]) for name in names])
    most = np.concatenate(
        [np.ones(entries), np.full(groups, np.inf), np.full(groups, np.inf if may_grow else 0)]
    )
    solution = optimize.milp(
        np.concatenate([-gain, np.zeros(groups), np.full(groups, gain.sum())]),
        constraints=optimize.LinearConstraint(matrix.tocsr(), lower, upper),
        integrality=np.ones(entries + 2 * groups),
        bounds=optimize.Bounds(0, most),
        options={"mip_rel_gap": 1e-3, "node_limit": NODE_LIMIT},
    )
    if solution.x is None:
        return None
    return {
        name: solution.x[starts[name] : starts[name] + size] > 0.5
        for name, size in zip(names, sizes, strict=True)
    }


def _block_rows(balance: Any, starts: Mapping[str, int]) -> list[tuple[dict[int, float], float]]:
    """Per block: coefficients of the entries that may go, and the number of channels that stay anyway."""
    blocks = []
    for block, fixed in zip(balance.blocks, balance.fixed, strict=True):
        row: dict[int, float] = {}
        for name, weights in block.items():
            if name in starts:
                row |= {int(starts[name] + i): float(w) for i, w in enumerate(weights) if w}
            else:
                fixed += int(weights.sum())
        blocks.append((row, float(fixed)))
    return blocks


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks in [0, 1); of equal scores the lower index ranks higher."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")[::-1]] = np.arange(len(scores)) / len(scores)
    return ranks
