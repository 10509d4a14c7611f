"""How long a model takes, measured where it will run: in the LiteRT interpreter.

>>> import keras
>>> x = keras.Input((4,))
>>> found = latency(keras.Model(x, keras.layers.Dense(2)(x)), repeats=5)
>>> found.runs, found.threads, found.median_ms > 0
(5, 1, True)
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress._checks import check_choice, check_number, check_whole
from tfcompress._runtimes import conversion, process
from tfcompress._runtimes.signature import Signature
from tfcompress.ops import delegate as delegate_library

RUNTIMES = ("litert", "saved_model")


@dataclass(frozen=True)
class Latency:
    """The time of one run, in milliseconds: the median of `runs`, and how they spread.

    `batch` is the number of examples per run; `runtime` names the runtime and its version.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    min_ms: float
    runs: int
    batch: int
    threads: int
    runtime: str

    @classmethod
    def of(cls, times_ms: list[float], *, batch: int, threads: int, runtime: str) -> "Latency":
        """Sums up the times of single runs, in milliseconds."""
        p10, median, p90 = np.percentile(times_ms, [10, 50, 90])
        least = min(times_ms)
        return cls(float(median), float(p10), float(p90), least, len(times_ms), batch, threads, runtime)

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return (
            f"{self.median_ms:.3g} ms (p10 {self.p10_ms:.3g}, p90 {self.p90_ms:.3g}, min {self.min_ms:.3g}; "
            f"{self.runs} runs of batch {self.batch}, {threads}, {self.runtime})"
        )


@dataclass(frozen=True)
class LatencyRatio:
    """The time of `first` over that of `second`, pair by pair: below 1, the first one is faster."""

    median: float
    p10: float
    p90: float
    first: Latency
    second: Latency

    @classmethod
    def of(cls, first_ms: list[float], second_ms: list[float], **facts: Any) -> "LatencyRatio":
        """Sums up the times of runs that alternated, in milliseconds."""
        p10, median, p90 = np.percentile(np.divide(first_ms, second_ms), [10, 50, 90])
        first, second = (Latency.of(times, **facts) for times in (first_ms, second_ms))
        return cls(float(median), float(p10), float(p90), first, second)

    def __str__(self) -> str:
        return (
            f"{self.median:.3g} times (p10 {self.p10:.3g}, p90 {self.p90:.3g}): "
            f"{self.first.median_ms:.3g} ms against {self.second}"
        )


def latency(
    path_or_model: Any,
    *,
    runtime: str = "litert",
    threads: int = 1,
    batch: int = 1,
    repeats: int = 50,
    warmup: int = 5,
    seconds: float = 10.0,
    data: Any = None,
    delegate: bool = False,
) -> Latency:
    """Measures the time of one run, in a process of its own, on the CPU.

    Copying the inputs in and the outputs out is not counted for LiteRT; for a SavedModel it is.

    Args:
        path_or_model: a .tflite file, the folder of a SavedModel, or a Keras model, which is first
            written in float32 to a temporary file.
        runtime: "litert", the stock LiteRT interpreter, or "saved_model", TensorFlow.
        threads: how many threads the runtime may use.
        batch: examples per run.
        repeats: how many runs are timed, unless `seconds` pass before.
        warmup: how many runs go before them.
        seconds: ends the timing, though not before the third run.
        data: an array `(examples, ...)`, or a dict of arrays by input name, of which the first
            `batch` examples are used. Without it: normal random numbers, and zeros for integers.
            Needed where an axis besides that of the batch is open.
        delegate: whether LiteRT runs with `tfcompress.load_delegate()`, which makes pruned float32 models
            faster.

    Raises:
        ValueError: an argument is wrong, or the model does not run.
        RuntimeError: the delegate is wanted and was not built.
    """
    settings = _Settings(runtime, threads, batch, repeats, warmup, seconds, data)
    times, facts = _measure([path_or_model], (delegate,), settings)
    return Latency.of(times[0], **facts)


def latency_ratio(
    first: Any, second: Any, *, delegate: bool | Sequence[bool] = False, **settings: Any
) -> LatencyRatio:
    """Measures how the time of `first` compares to that of `second`.

    The two run in turn in one process, A B A B ..., and each pair gives one ratio. Where other work
    slows the machine now and then, it slows both, and the ratio varies less than the times.

    Args:
        first, second: .tflite files, folders of SavedModels, or Keras models.
        delegate: as for `latency`; or one for each, so that `(True, False)` and the same file twice tell
            what the delegate gains.
        settings: the other keyword arguments of `latency`.

    Raises:
        ValueError: an argument is wrong, or a model does not run.
    """
    delegates = tuple(delegate) if isinstance(delegate, Sequence) else (delegate, delegate)
    if len(delegates) != 2 or not all(isinstance(wanted, (bool, np.bool_)) for wanted in delegates):
        raise ValueError(f"delegate must be True or False, or one of these for each model, got {delegate!r}.")
    times, facts = _measure([first, second], delegates, _Settings(**settings))
    return LatencyRatio.of(*times, **facts)


@dataclass(frozen=True)
class _Settings:
    """The keyword arguments of `latency`, checked."""

    runtime: str = "litert"
    threads: int = 1
    batch: int = 1
    repeats: int = 50
    warmup: int = 5
    seconds: float = 10.0
    data: Any = None

    def __post_init__(self) -> None:
        check_choice("runtime", self.runtime, RUNTIMES)
        for name, least in {"threads": 1, "batch": 1, "repeats": 1, "warmup": 0}.items():
            check_whole(name, getattr(self, name), least)
        check_number("seconds", self.seconds, "[0, inf)")

    @property
    def inputs(self) -> Any:
        """The first batch of the data, or None."""
        if self.data is None:
            return None
        first = keras.tree.map_structure(lambda array: np.asarray(array)[: self.batch], self.data)
        if any(len(array) < self.batch for array in keras.tree.flatten(first)):
            raise ValueError(f"The data has fewer examples than the batch of {self.batch}.")
        return first


def _measure(models: list, delegates: Sequence[bool], settings: _Settings) -> tuple[list, dict]:
    """The times of each model, and the facts that a `Latency` states besides them."""
    if any(delegates) and settings.runtime != "litert":
        raise ValueError("The delegate runs in LiteRT only: runtime='litert'.")
    found = delegate_library.specification() if any(delegates) else None
    arguments = {**vars(settings), "inputs": settings.inputs}
    del arguments["data"]
    with contextlib.ExitStack() as files:
        paths = [str(files.enter_context(_file(model, settings.runtime))) for model in models]
        try:
            answer = process.call(
                conversion.CHILD,
                "measure",
                paths=paths,
                delegates=[found if wanted else None for wanted in delegates],
                **arguments,
            )
        except process.ChildError as error:
            raise ValueError(f"No latency of {' and '.join(map(_label, models))}: {error}") from error
    facts = {"batch": settings.batch, "threads": settings.threads, "runtime": answer["version"]}
    return answer["times_ms"], facts


@contextlib.contextmanager
def _file(model: Any, runtime: str) -> Iterator[pathlib.Path]:
    """The file of a model; a temporary one for a Keras model."""
    if not isinstance(model, keras.Model):
        yield _checked_path(model, runtime)
        return
    conversion.check_backend()
    signature = Signature.of(model)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite" if runtime == "litert" else "model")
        if runtime == "saved_model":
            conversion.save(model, signature, path)
        else:
            path.write_bytes(_converted(model, signature))
        yield path


def _converted(model: keras.Model, signature: Signature) -> bytes:
    try:
        return conversion.tflite_files(model, signature)[False]
    except process.ChildError as error:
        raise ValueError(f"'{model.name}' cannot be converted to TFLite: {error}") from error


def _checked_path(path: Any, runtime: str) -> pathlib.Path:
    if not isinstance(path, (str, pathlib.Path)):
        raise ValueError(f"Expected a path or a keras.Model, got {type(path).__name__}.")
    path = pathlib.Path(path).resolve()
    if runtime == "litert" and not path.is_file():
        raise ValueError(f"There is no file '{path}'.")
    if runtime == "saved_model" and not (path / "saved_model.pb").is_file():
        raise ValueError(f"'{path}' is not the folder of a SavedModel: it has no saved_model.pb.")
    return path


def _label(model: Any) -> str:
    return f"'{model.name}'" if isinstance(model, keras.Model) else f"'{model}'"
