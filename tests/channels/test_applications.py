"""All 40 networks of `keras.applications`, pruned by half, stay exact.

All but `OFTEN` are in `make test-thorough` only.
"""

import inspect

import keras
import pytest
import thorough
from surgery import check_exact, random_masks

from tfcompress import channels

NAMES = sorted(name for name, value in vars(keras.applications).items() if inspect.isfunction(value))
OFTEN = "ConvNeXtTiny DenseNet121 EfficientNetB0 InceptionV3 MobileNetV3Small ResNet50V2".split()
SMALLEST = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}


def build(name: str) -> keras.Model:
    size = SMALLEST.get(name, 32)
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=7)


def test_there_are_40_applications():
    assert len(NAMES) >= 40 and set(OFTEN) < set(NAMES)


@pytest.mark.parametrize("name", thorough.beside(NAMES, OFTEN))
def test_shrunk_application_equals_silenced_application(name):
    keras.utils.clear_session()
    model = build(name)
    graph = channels.trace(model)
    assert not graph.unknown
    small = check_exact(model, draws=[random_masks])  # one, for they are big
    assert small.count_params() < 0.6 * model.count_params()
