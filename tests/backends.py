"""Marks of tests that need one of Keras's backends."""

import keras
import pytest

NEEDS_TENSORFLOW = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="files are written, and our op is run, by TensorFlow"
)
