"""How fast a compressed file is written and read: ResNet-50, against xz and gzip of the same weights.

    python tests/benchmarks/bench_coding.py

Random weights of the kernels' usual sizes, once as they are, once with nine of ten zero and the others shared
by `share`. Arrays are coded and decoded one after another, on one thread; megabytes are those of plain
float32. The peers get all weights at once, in the presets in which they take the fewest bytes.
"""

import argparse
import gzip
import lzma
import time

import keras
import numpy as np
from measure import interleaved, peak_mib, ratio, save, spread

import tfcompress
from tfcompress.coding import arrays


def networks() -> dict[str, list[np.ndarray]]:
    """Weights by kind of network."""
    model = keras.applications.ResNet50(weights=None)
    dense = [np.asarray(weight) for weight in model.get_weights()]
    rng = np.random.default_rng(0)
    model.set_weights([w * (rng.random(w.shape) < 0.1) if w.ndim > 1 else w for w in dense])
    start = time.perf_counter()
    shared = tfcompress.strip(tfcompress.share(model))
    print(f"share: {time.perf_counter() - start:.1f} s", flush=True)
    return {"dense": dense, "pruned and shared": shared.get_weights()}


def measured(weights: list[np.ndarray], rounds: int) -> dict:
    plain = b"".join(weight.tobytes() for weight in weights)
    coded: list[arrays.Coded] = []
    packed: dict[str, bytes] = {}

    def encode() -> None:
        coded[:] = [arrays.encode(weight) for weight in weights]

    def decode() -> None:
        for one, weight in zip(coded, weights, strict=True):
            found = arrays.decode(one, weight.shape, weight.dtype)
            assert found.tobytes() == (weight + 0.0).tobytes()

    def xz() -> None:
        packed["xz"] = lzma.compress(plain, preset=9 | lzma.PRESET_EXTREME)

    def zipped() -> None:
        packed["gzip"] = gzip.compress(plain, 9)

    sides = {"encode": encode, "decode": decode, "xz": xz, "gzip": zipped}
    seconds = interleaved(sides, rounds)
    megabytes = len(plain) / 1e6
    return {
        "bytes": {
            "plain": len(plain),
            "ours": sum(one.bytes for one in coded),
            **{name: len(content) for name, content in packed.items()},
        },
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "megabytes_per_second": {
            name: spread([megabytes / value for value in values]) for name, values in seconds.items()
        },
        "encode_over_xz": ratio(seconds, "encode", "xz"),
        "encode_over_gzip": ratio(seconds, "encode", "gzip"),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    result = {"what": "coding the weights of ResNet-50, one thread"}
    for name, weights in networks().items():
        weights = [np.where(weight == 0, np.float32(0), weight) for weight in weights]
        result[name] = measured(weights, arguments.rounds)
    save("coding", {**result, "peak_mib": peak_mib()})


if __name__ == "__main__":
    main()
