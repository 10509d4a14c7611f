"""Sparse, shared and int8, in all combinations: bytes, latency and accuracy of the files.

    python examples/combinations.py --data-dir folder/with/cifar10-tfrecords

It goes on from `deep_compression.py`, with the same flags and folder: whatever that has not trained yet is
trained here. Each network is exported to TFLite in float32 and in both kinds of int8, and run on all test
images in LiteRT. Times are ratios to the dense float32 file, in turn, on one thread. What a stage before has
won is asserted after each later one.
"""

import functools
import gzip
from collections.abc import Callable
from pathlib import Path

import deep_compression as deep
import keras
import numpy as np
import studies
from absl import flags

import tfcompress
from tfcompress import analysis

flags.DEFINE_string("network", "vgg", "Which network of deep_compression.py.")
FLAGS = flags.FLAGS

QUANTIZATIONS = (None, "dynamic_int8", "int8")
WEIGHTS = ("plain", "sparse", "shared", "sparse and shared")
CALIBRATION = 256  # training images


def main(argv: list[str]) -> None:
    del argv
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    plan = deep.PLANS[FLAGS.network]
    images = plan.images()
    about = {**deep.settings(), "network": FLAGS.network, "data": images.name}
    results = studies.Results(out / "combinations.json", about, ("method", "quantization", "seed"))
    for seed in map(int, FLAGS.seeds):
        study = deep.Study(FLAGS.network, plan, images, seed, out)
        for weights in WEIGHTS:
            for quantization in QUANTIZATIONS:
                run = functools.partial(measured, study, weights, quantization)
                results.once(run, method=weights, quantization=quantization or "float32", seed=seed)
    report(results.runs, out)


# ------------------------------------------------------------------ networks


def trained(study: deep.Study, stage: str) -> keras.Model:
    """A stage of `deep_compression.py`."""
    if not study.file(stage).exists():
        deep.RUNS[stage](study)
    return study.load(stage)


def only_shared(study: deep.Study) -> keras.Model:
    """The dense network with shared values, trained as the sparse one was."""
    file = study.file("only_shared")
    if not file.exists():
        shared = tfcompress.share(trained(study, "dense"))
        deep.train_values(study, shared)
        tfcompress.strip(shared).save(file)
    return study.load("only_shared")


NETWORKS: dict[str, Callable[[deep.Study], keras.Model]] = {
    "plain": lambda study: trained(study, "dense"),
    "sparse": lambda study: trained(study, "pruned"),
    "shared": only_shared,
    "sparse and shared": lambda study: trained(study, "shared"),
}


def check(study: deep.Study, weights: str, model: keras.Model) -> None:
    """Zeros of the sparse network are zeros still, and shared kernels have few values."""
    for layer, before in zip(model.layers, trained(study, "pruned").layers, strict=True):
        if not hasattr(layer, "kernel"):
            continue
        kernel, sparse = (np.asarray(each.kernel) for each in (layer, before))
        assert "sparse" not in weights or not kernel[sparse == 0].any(), f"{layer.name} has lost zeros"
        values = len(np.unique(kernel[kernel != 0]))
        assert "shared" not in weights or values <= 255, f"{layer.name} has {values} values"


# ------------------------------------------------------------------ files


def measured(study: deep.Study, weights: str, quantization: str | None) -> dict:
    trained(study, "dense"), trained(study, "pruned")
    model = NETWORKS[weights](study)
    check(study, weights, model)
    x, y = study.images.test
    path = export(model, study, weights, quantization)
    plain = export(trained(study, "dense"), study, "plain", None)
    predicted = tfcompress.export.run_tflite(path, x).argmax(axis=1)
    ratio = analysis.latency_ratio(path, plain, repeats=100)
    content = path.read_bytes()
    return {
        "accuracy": float((predicted == y).mean()),
        "bytes": len(content),
        "gzip_bytes": len(gzip.compress(content, 9)),
        "time": ratio.median,
        "time_p10": ratio.p10,
        "time_p90": ratio.p90,
    }


def export(model: keras.Model, study: deep.Study, weights: str, quantization: str | None) -> Path:
    name = f"{study.name}-{weights}-{quantization or 'float32'}-seed{study.seed}.tflite"
    path = study.out / name.replace(" ", "_")
    if not path.exists():
        data = study.images.train[0][:CALIBRATION]
        settings = {"representative_data": data} if quantization == "int8" else {"data": data}
        tfcompress.export.tflite(model, path, quantization=quantization, sparse_encoding=False, **settings)
    return path


# ------------------------------------------------------------------ results


def report(runs: list[dict], out: Path) -> None:
    rows = []
    for weights in WEIGHTS:
        for quantization in QUANTIZATIONS:
            which = (weights, quantization or "float32")
            mine = [run for run in runs if (run["method"], run["quantization"]) == which]
            rows.append(
                [
                    ", ".join(which),
                    str(len(mine)),
                    studies.spread(mine, "accuracy"),
                    *(f"{np.mean([run[key] for run in mine]):,.0f}" for key in ("bytes", "gzip_bytes")),
                    studies.spread(mine, "time", 1),
                ]
            )
    columns = ("weights, numbers", "seeds", "accuracy, %", "bytes", "gzip", "time over dense")
    studies.write_table("Files of one network, in LiteRT", columns, rows, out / "combinations.txt")


if __name__ == "__main__":
    studies.run(main)
