"""A model in one small file: Deep Compression's last stage, and the way back (Han, Mao and Dally 2016).

>>> import keras, tempfile
>>> x = keras.Input((100,))
>>> model = keras.Model(x, keras.layers.Dense(50, name="head")(x))
>>> weights, bias = model.get_weights()
>>> model.set_weights([np.where(abs(weights) > 0.15, np.round(weights, 1), 0), bias])
>>> with tempfile.TemporaryDirectory() as folder:
...     report = save_compressed(model, folder + "/model.tfc")
...     again = load_compressed(folder + "/model.tfc")
>>> report.dense_bytes, report.size_bytes < 2500
(20200, True)
>>> all((a == b).all() for a, b in zip(model.get_weights(), again.get_weights()))
True
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.table import Table

from tfcompress import _calls
from tfcompress._arrays import to_numpy
from tfcompress._text import plain
from tfcompress.coding import container, gaps, models
from tfcompress.coding.container import FormatError
from tfcompress.export import verify
from tfcompress.layers import strip
from tfcompress.layers.substituted import SubstitutedLayer


@dataclass(frozen=True)
class Stages:
    """What one array takes after each stage, in bytes.

    Attributes:
        name: the path of the weight.
        entries: of the array.
        nonzero: how many of them are not zero.
        values: how many different ones there are beside zero.
        dense: every entry as it is.
        pruned: those that are not zero, with a distance to the next in as few bits as pay, fillers included.
        shared: the same with numbers in a table for the entries, and the table.
        encoded: in the file.
        tables: of that, tables of values and of codes.
        kind: the coding in the file.
    """

    name: str
    entries: int
    nonzero: int
    values: int
    dense: int
    pruned: int
    shared: int
    encoded: int
    tables: int
    kind: str


@dataclass(frozen=True)
class CompressedReport:
    """What is in a compressed file; print it for a table.

    Attributes:
        path: of the file.
        arrays: what each array takes after each stage.
        size_bytes: of the whole file.
        header_bytes: of that, what is no array: the description of the model and of arrays.
        kept_raw: paths of arrays that are stored as they are, since nothing makes them smaller.
    """

    path: Path
    arrays: list[Stages]
    size_bytes: int
    header_bytes: int

    @property
    def dense_bytes(self) -> int:
        return sum(stages.dense for stages in self.arrays)

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than the plain weights."""
        return self.dense_bytes / self.size_bytes

    @property
    def kept_raw(self) -> list[str]:
        return [stages.name for stages in self.arrays if stages.kind == "raw"]

    def __rich__(self) -> Table:
        table = Table(title=f"{self.path.name}: {self.size_bytes:,} bytes, {self.ratio:.1f} times smaller")
        table.add_column("weight")
        for column in ("entries", "not zero", "values", *_STAGES, "coding"):
            table.add_column(column, justify="right")
        for stages in self.arrays:
            share = f"{stages.nonzero / max(stages.entries, 1):.1%}"
            sizes = (f"{getattr(stages, stage):,}" for stage in _STAGES)
            table.add_row(
                stages.name, f"{stages.entries:,}", share, f"{stages.values:,}", *sizes, stages.kind
            )
        totals = (f"{sum(getattr(stages, stage) for stages in self.arrays):,}" for stage in _STAGES)
        table.add_row("[bold]all[/bold]", "", "", "", *totals, "")
        table.add_row("header", *[""] * 6, f"{self.header_bytes:,}", "", "")
        return table

    def __str__(self) -> str:
        return plain(self)


_STAGES = ("dense", "pruned", "shared", "encoded", "tables")


def save_compressed(model: keras.Model, path: Any) -> CompressedReport:
    """Writes a model to one file, in as few bytes as its weights allow, and reads it again to be sure.

    Prune it and `share` its values before: what is zero, and what is one of few values, takes little; what is
    neither is stored as it is, bit for bit. Only a zero loses its sign, which masks leave behind. Each array
    is coded in several ways, and the smallest is taken: distances and numbers by Huffman as in the paper, or
    adaptive arithmetic coding. Masks and tables of shared values become final. The file holds architecture
    and weights, and neither optimizer nor compile.

    Args:
        model: any built model whose config tells all of it. It is not changed.
        path: of the file, by custom `.tfc`. A file that is there is replaced, once the new one was read.

    Raises:
        ValueError: the model is not built, or cannot be made again from its config.
        OSError: the file cannot be written; an old one stays.
    """
    path = Path(path)
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"Expected a keras.Model that is built, got {model!r}.")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder '{path.parent}' to write '{path.name}' to.")
    if _calls.is_functional(model) and any(
        isinstance(operation, SubstitutedLayer) for _, operation in _calls.walk(model)
    ):
        model = strip(model)
    with verify.staged(path) as temporary:
        container.write(temporary, models.described(model), models.weights(model))
        _check_again(model, temporary)
        temporary.replace(path)
    opened = container.read(path)
    return _report(opened, zip(opened.entries, (array for _, array in models.weights(model)), strict=True))


def load_compressed(path: Any, custom_objects: Mapping[str, Any] | None = None) -> keras.Model:
    """The model of a file that `save_compressed` wrote, with equal weights; it is not compiled.

    Arrays are decoded one after another. Nothing in the file is run: Lambda layers with code of their own
    are refused by Keras, and other classes must be there already.

    Args:
        path: of the file.
        custom_objects: name -> class or function that Keras lacks; or register them with
            `keras.saving.register_keras_serializable`.

    Raises:
        FormatError: the file is none of these, damaged, cut off, or of a newer version. It is a ValueError.
        ValueError: a class of the model is missing; the message names it.
    """
    opened = container.read(Path(path))
    model = _built(opened, custom_objects)
    if [tuple(weight.shape) for weight in model.weights] != [entry.shape for entry in opened.entries]:
        raise FormatError(f"'{path}' describes a model with other weights than it holds.")
    for weight, (_, array) in zip(model.weights, opened.arrays(), strict=True):
        weight.assign(array)
    return model


def inspect_compressed(path: Any) -> CompressedReport:
    """What each array of a compressed file takes after each stage; the model is not made.

    Raises:
        FormatError: see `load_compressed`.
    """
    opened = container.read(Path(path))
    return _report(opened, opened.arrays())


def _report(
    opened: container.Opened, arrays: Iterable[tuple[container.Entry, np.ndarray]]
) -> CompressedReport:
    stages = [_stages(entry, array) for entry, array in arrays]
    return CompressedReport(opened.path, stages, opened.size, opened.overhead)


# ------------------------------------------------------------------ models


def _check_again(model: keras.Model, path: Path) -> None:
    with keras.saving.custom_object_scope(_classes(model)):
        again = load_compressed(path)
    for weight, made in zip(model.weights, again.weights, strict=True):
        if not np.array_equal(to_numpy(weight), to_numpy(made), equal_nan=True):
            raise ValueError(f"'{weight.path}' did not come back as it was; nothing was written.")


def _classes(model: keras.Model) -> dict[str, Any]:
    """The classes of all parts but Keras's, by name, for the file to be read again."""
    parts = (
        [model, *(operation for _, operation in _calls.walk(model))]
        if _calls.is_functional(model)
        else [model]
    )
    classes = map(type, parts)
    return {cls.__name__: cls for cls in classes if not cls.__module__.startswith("keras.")}


def _built(opened: container.Opened, custom_objects: Mapping[str, Any] | None) -> keras.Model:
    try:
        config = opened.header["model"]
        model = keras.saving.deserialize_keras_object(config, dict(custom_objects or {}), safe_mode=True)
    except Exception as error:  # whatever the code of a layer raises
        cause = " ".join(str(error).split())[:600]
        raise ValueError(
            f"The model in '{opened.path}' cannot be made. If a class of yours is missing, pass it: "
            f"load_compressed(path, custom_objects={{'MyLayer': MyLayer}}). Keras says: {cause}"
        ) from error
    if not isinstance(model, keras.Model) or not model.built:
        raise FormatError(f"'{opened.path}' holds no model, but {model!r}.")
    return model


# ------------------------------------------------------------------ what stages take


def _stages(entry: container.Entry, array: np.ndarray) -> Stages:
    flat = array.reshape(-1)
    live = flat != 0
    nonzero, values = int(live.sum()), len(np.unique(flat[live]))
    size, itemsize = entry.count * array.itemsize, array.itemsize
    code = max(1, math.ceil(math.log2(values + 1)))
    occurring = gaps.histograms(live.astype(np.uint8))
    steps = {bits: int(gaps.counts(*occurring, bits)[0].sum()) for bits in gaps.BITS}
    pruned = min(-(-count * (bits + 8 * itemsize) // 8) for bits, count in steps.items())
    shared = min(-(-count * (bits + code) // 8) for bits, count in steps.items()) + values * itemsize
    pruned = min(pruned, size)
    return Stages(
        name=entry.name,
        entries=entry.count,
        nonzero=nonzero,
        values=values,
        dense=size,
        pruned=pruned,
        shared=min(shared, pruned),
        encoded=sum(entry.sizes),
        tables=_tables(entry),
        kind=entry.kind,
    )


def _tables(entry: container.Entry) -> int:
    """Of the streams, those that are tables: of values, and of the lengths of codes."""
    places = {"table": (0,), "gaps": (0, 1, 3)}.get(entry.kind, ())
    return sum(entry.sizes[place] for place in places)
