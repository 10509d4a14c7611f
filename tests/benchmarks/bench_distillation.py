"""A step of distillation against what it cannot do without, and against Keras's own Distiller.

    python tests/benchmarks/bench_distillation.py [--rounds 15]

All sides take a step on the same batch, in one process and in turn: the student trained on labels, the
teacher asked, our `Distiller` with one loss of outputs, and with one of features besides, and
`keras.distillation.Distiller` with the same losses. The peer of ours is the sum of the first two, which are
measured apart.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(os.cpu_count()))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402
from measure import interleaved, ratio, save, spread  # noqa: E402

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import networks  # noqa: E402

from tfcompress import distillation  # noqa: E402


def small() -> tuple[Callable, Callable, int, tuple[str, str]]:
    shape = (32, 32, 3)
    teacher = lambda: networks.resnet(shape, 10, 16, depth=20)  # noqa: E731
    student = lambda: networks.resnet(shape, 10, 16, depth=8)  # noqa: E731
    return teacher, student, 128, ("stage3_block3_relu2", "stage3_block1_relu2")


def large() -> tuple[Callable, Callable, int, tuple[str, str]]:
    settings = {"weights": None, "input_shape": (128, 128, 3), "classes": 10}
    teacher = lambda: keras.applications.ResNet50(**settings)  # noqa: E731
    student = lambda: keras.applications.ResNet50V2(**settings)  # noqa: E731
    return teacher, student, 16, ("conv4_block6_out", "conv4_block5_out")


CASES = {
    "ResNet-20 teaches ResNet-8, 32 px, batch 128": small,
    "ResNet-50 teaches ResNet-50 V2, 128 px, batch 16": large,
}


def ours(teacher: keras.Model, student: keras.Model, layers: tuple[str, str] | None) -> keras.Model:
    losses: list = [distillation.SoftTargets(3.0)]
    features = [distillation.Hints(*layers)] if layers else []
    return distillation.Distiller(teacher, student, losses + features)


def of_keras(teacher: keras.Model, student: keras.Model, layers: tuple[str, str] | None) -> keras.Model:
    divergence = keras.losses.KLDivergence()
    losses: list = [keras.distillation.LogitsDistillation(3.0, loss=divergence)]
    features = [keras.distillation.FeatureDistillation("mse", *layers)] if layers else []
    return keras.distillation.Distiller(teacher, student, losses + features)


def sides(case: Callable) -> dict[str, Callable[[], Any]]:
    make_teacher, make_student, batch, layers = case()
    rng = np.random.default_rng(0)
    teacher = make_teacher()
    images = rng.normal(size=(batch, *teacher.input_shape[1:])).astype("float32")
    labels = rng.integers(0, 10, batch)

    def step(model: keras.Model) -> Callable[[], Any]:
        model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), "sparse_categorical_crossentropy")
        return lambda: model.train_on_batch(images, labels)

    return {
        "student": step(make_student()),
        "teacher": lambda: teacher.predict_on_batch(images),
        "ours, outputs": step(ours(teacher, make_student(), None)),
        "ours, features": step(ours(teacher, make_student(), layers)),
        "keras, outputs": step(of_keras(teacher, make_student(), None)),
        "keras, features": step(of_keras(teacher, make_student(), layers)),
    }


def measured(case: Callable, rounds: int) -> dict:
    seconds = interleaved(sides(case), rounds)
    parts = zip(seconds["student"], seconds["teacher"], strict=True)
    seconds["teacher + student"] = [one + other for one, other in parts]
    of_ours = {
        f"{name} over teacher + student": ratio(seconds, name, "teacher + student")
        for name in ("ours, outputs", "ours, features")
    }
    of_keras = {
        f"keras over ours, {losses}": ratio(seconds, f"keras, {losses}", f"ours, {losses}")
        for losses in ("outputs", "features")
    }
    times = {f"{name}, ms": spread([1000 * each for each in seconds[name]]) for name in seconds}
    return of_ours | of_keras | times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    result = {"what": "seconds of a step of distillation, in turn", "threads": int(THREADS)}
    for name, case in CASES.items():
        keras.utils.clear_session()
        result[name] = measured(case, arguments.rounds)
    save("distillation", result)


if __name__ == "__main__":
    main()
