"""The bytes of one trained network: our file against other ways to make it small, at the accuracy of each.

    python tests/benchmarks/bench_size.py [FOLDER] --data-dir DATA [--nncodec PYTHON] [--tfmot PYTHON]

All begin with the pruned network of `examples/deep_compression.py`, of whose files in the repository one is;
or give the folder of another run. Ours is the shared stage; gzip, xz and zstd pack the .keras and the float32
.tflite of the very same weights. NNCodec (ISO/IEC 15938-17, DeepCABAC) quantizes the pruned weights,
by each of several steps. tfmot clusters them, keeps zeros, and trains as long. These two run in
interpreters of their own, since they want other versions of what we need: give them, or they are left out.
"""

import argparse
import gzip
import json
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
from measure import save

import tfcompress

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import datasets
import studies

FOLDER = Path(datasets.__file__).parent / "results" / "deep_compression"

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda content: gzip.compress(content, 9),
    "xz": lambda content: lzma.compress(content, preset=9 | lzma.PRESET_EXTREME),
}
try:
    import zstandard

    PACKERS["zstd"] = lambda content: zstandard.ZstdCompressor(level=22).compress(content)
except ImportError:
    print("zstd is left out: pip install zstandard")

STEPS = (-20, -24, -28, -32, -36)  # NNCodec's qp: the step is 2^(qp/4)
NNCODEC = """
import json, sys
import numpy as np
from nncodec import nn
weights, folder, steps = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
weights = dict(np.load(weights))
for qp in steps:
    content = nn.encode(dict(weights), {"qp": qp, "results": folder, "verbose": False})
    np.savez(f"{folder}/{qp}.npz", **nn.decode(content))
    open(f"{folder}/{qp}.nnc", "wb").write(bytes(content))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--data-dir")
    parser.add_argument("--network", default="vgg")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nncodec", help="a python that has nncodec")
    parser.add_argument("--tfmot", help="a python that has tensorflow-model-optimization and tf_keras")
    arguments = parser.parse_args()
    images = datasets.load(arguments.data_dir)
    stages = {
        stage: tfcompress.load_compressed(
            arguments.folder / f"{arguments.network}-{stage}-seed{arguments.seed}.tfc"
        )
        for stage in ("pruned", "shared")
    }
    found = {f"{stage}, plain": plain(model, images) for stage, model in stages.items()}
    for name, result in [
        *ours(stages, images),
        *packed(stages["shared"], images),
        *nncodec(arguments.nncodec, stages["pruned"], images),
        *tfmot(arguments.tfmot, arguments, images),
    ]:
        found[name] = result
        print(name, result, flush=True)
    what = f"{arguments.network} of examples/deep_compression.py, seed {arguments.seed}, {images.name}"
    save("size", {"what": what, "files": found})


def plain(model: keras.Model, images: datasets.Images) -> dict:
    size = sum(weight.nbytes for weight in model.get_weights())
    return {"bytes": size, "accuracy": studies.accuracy(model, images)}


def ours(stages: dict[str, keras.Model], images: datasets.Images) -> Iterator[tuple[str, dict]]:
    with tempfile.TemporaryDirectory() as folder:
        for stage, model in stages.items():
            report = tfcompress.save_compressed(model, Path(folder, "model.tfc"))
            again = tfcompress.load_compressed(report.path)
            yield (
                f"tfcompress, {stage}",
                {
                    "bytes": report.size_bytes,
                    "accuracy": studies.accuracy(again, images),
                },
            )


def packed(model: keras.Model, images: datasets.Images) -> Iterator[tuple[str, dict]]:
    """Of the same weights as ours, and so as accurate."""
    accuracy = studies.accuracy(model, images)
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: Path(folder, f"model.{kind}") for kind in ("keras", "tflite")}
        model.save(files["keras"])
        tfcompress.export.tflite(model, files["tflite"], data=images.test[0][:32])
        for kind, file in files.items():
            for name, pack in PACKERS.items():
                yield f".{kind}, {name}", {"bytes": len(pack(file.read_bytes())), "accuracy": accuracy}


def nncodec(python: str | None, model: keras.Model, images: datasets.Images) -> Iterator[tuple[str, dict]]:
    if python is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = {f"{number:04}": weight for number, weight in enumerate(model.get_weights())}
        np.savez(f"{folder}/weights.npz", **weights)
        command = [python, "-c", NNCODEC, f"{folder}/weights.npz", folder, json.dumps(STEPS)]
        subprocess.run(command, check=True, capture_output=True)
        for qp in STEPS:
            with np.load(f"{folder}/{qp}.npz") as decoded:
                model.set_weights([decoded[name].reshape(weights[name].shape) for name in weights])
            size = Path(f"{folder}/{qp}.nnc").stat().st_size
            yield f"NNCodec, qp {qp}", {"bytes": size, "accuracy": studies.accuracy(model, images)}


def tfmot(
    python: str | None, arguments: argparse.Namespace, images: datasets.Images
) -> Iterator[tuple[str, dict]]:
    """In a process of its own, which writes a .tflite file and its Keras weights."""
    if python is None:
        return
    script = Path(__file__).with_name("tfmot_clustering.py")
    with tempfile.TemporaryDirectory() as folder:
        given = [str(arguments.folder), arguments.network, str(arguments.seed), str(arguments.data_dir)]
        subprocess.run([python, str(script), *given, folder], check=True, capture_output=True)
        file = Path(folder, "model.tflite")
        predicted = tfcompress.export.run_tflite(file, images.test[0]).argmax(axis=1)
        size = len(gzip.compress(file.read_bytes(), 9))
        accuracy = float((predicted == images.test[1]).mean())
        yield "tfmot clustering, .tflite, gzip", {"bytes": size, "accuracy": accuracy}


if __name__ == "__main__":
    main()
