"""What the benchmarks share: interleaved rounds, ratios, and a JSON that says where it was measured."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "ai-edge-litert", "numpy", "torch", "torch-pruning")


def interleaved(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, A B A B ..., after one call of each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def ratio(seconds: dict[str, list[float]], side: str, peer: str) -> dict[str, float]:
    """The ratio round by round, so that a machine whose speed drifts does not matter."""
    return spread([a / b for a, b in zip(seconds[side], seconds[peer], strict=True)])


def peak_mib() -> float:
    """The peak of resident memory; `getrusage` would give that of the parent process where it is higher."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def save(name: str, result: dict, folder: Path = RESULTS) -> None:
    """Prints the result and writes it to `folder`/`name`.json with machine, date and versions."""
    versions = {package: _version(package) for package in PACKAGES}
    result = {
        **result,
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {package: version for package, version in versions.items() if version},
        "date": time.strftime("%Y-%m-%d"),
    }
    folder.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1)
    (folder / f"{name}.json").write_text(text + "\n")
    print(text)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
