"""Whether budgets of measured latency are met when measured again, and what finding the widths takes.

    python tests/benchmarks/bench_latency_budget.py [--share 0.5]

Each network is pruned to a share of its own latency in LiteRT; then the two are run in turn in one process,
which gives the ratio that counts. Multiply-accumulates are given beside it: how much of them a budget of MACs
would have had to remove is another matter.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import keras
from measure import save

import tfcompress
from tfcompress import analysis
from tfcompress.pruning import Budget

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import networks as examples


def networks() -> dict[str, keras.Model]:
    return {
        "ResNet-20 at 32": examples.resnet20((32, 32, 3), 10, 16),
        "MobileNetV2 at 96": keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3)),
    }


def solved(model: keras.Model, share: float) -> dict:
    table = analysis.LatencyTable()
    start = time.perf_counter()
    small = tfcompress.prune(model, "l1", budget=Budget({"latency": share}, table=table))
    seconds = time.perf_counter() - start
    again = [analysis.latency_ratio(small, model) for _ in range(3)]
    return {
        "asked": share,
        "measured_again": [dataclasses.asdict(ratio) for ratio in again],
        "macs": analysis.macs(small) / analysis.macs(model),
        "seconds": seconds,
        "layers_measured": len(table.entries),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=0.5)
    share = parser.parse_args().share
    result = {
        "what": "networks pruned to a share of their latency in LiteRT, float32, one thread",
        "networks": {name: solved(model, share) for name, model in networks().items()},
    }
    save("latency_budget", result)


if __name__ == "__main__":
    main()
