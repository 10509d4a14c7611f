"""Tracing and shrinking ResNet-50, beside torch-pruning where that is installed.

    python tests/benchmarks/bench_surgery.py [--rounds 5]

Both sides follow the dependencies of the whole network and remove half of every group of channels, in the
same process, in turn. torch-pruning prunes in place, so its side also builds the network anew;
building is timed apart and taken off. To have the peer: pip install torch torch-pruning.
"""

import argparse
import time

import keras
import numpy as np
from measure import interleaved, ratio, save, spread

from tfcompress import channels


def keras_side() -> dict:
    model = keras.applications.ResNet50(weights=None)
    parts: dict[str, list[float]] = {"trace": [], "shrink": []}

    def call() -> None:
        start = time.perf_counter()
        graph = channels.trace(model)
        traced = time.perf_counter()
        keep = {group.name: np.arange(group.size) % 2 == 0 for group in graph.free}
        channels.shrink(model, graph, keep)
        parts["trace"].append(traced - start)
        parts["shrink"].append(time.perf_counter() - traced)

    return {"call": call, "parts": parts}


def torch_side() -> dict | None:
    try:
        import torch
        import torch_pruning
    except ImportError:
        return None
    from torch_resnet import resnet50

    image = torch.randn(1, 3, 224, 224)

    def build() -> None:
        resnet50()

    def call() -> None:
        network = resnet50().eval()
        importance = torch_pruning.importance.MagnitudeImportance(p=1)
        pruner = torch_pruning.pruner.MetaPruner(
            network, image, importance, pruning_ratio=0.5, ignored_layers=[network.fc]
        )
        pruner.step()

    return {"call": call, "build": build}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    ours, theirs = keras_side(), torch_side()
    sides = {"tfcompress": ours["call"]}
    if theirs:
        sides |= {"torch_pruning_with_build": theirs["call"], "torch_build": theirs["build"]}
    seconds = interleaved(sides, rounds)
    result = {
        "what": "ResNet-50 at 224: trace, and remove half of every group; seconds",
        "trace": spread(ours["parts"]["trace"][1:]),
        "shrink": spread(ours["parts"]["shrink"][1:]),
    }
    if theirs:
        whole, build = seconds["torch_pruning_with_build"], seconds["torch_build"]
        seconds["torch_pruning"] = [a - b for a, b in zip(whole, build, strict=True)]
        result["torch_pruning"] = spread(seconds["torch_pruning"])
        result["tfcompress_over_torch_pruning"] = ratio(seconds, "tfcompress", "torch_pruning")
    save("surgery", result)


if __name__ == "__main__":
    main()
