"""What every test starts from: the same random numbers, fresh Keras names, a quiet TensorFlow.

Set `HYPOTHESIS_PROFILE=thorough` to try many more examples per property, and new ones in each run.
"""

import os

_THREADS = str(max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))

# Read when the libraries are first imported, so they are set before any of them is.
for _name, _value in {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_NUM_INTRAOP_THREADS": _THREADS,  # parallel test processes share the cores
    "TF_NUM_INTEROP_THREADS": _THREADS,
    "OMP_NUM_THREADS": _THREADS,
    "OPENBLAS_NUM_THREADS": _THREADS,
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # and a GPU, where there is one
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(_name, _value)

import hypothesis
import keras
import pytest

SEED = 0

hypothesis.settings.register_profile("default", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True, scope="module")
def _fresh_keras():
    """Layer names count from 1 in each file, and fixtures of a whole file are seeded too."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(SEED)


@pytest.fixture(autouse=True)
def _seed(_fresh_keras):
    """A test sees the same random numbers whether it runs alone or after others."""
    keras.utils.set_random_seed(SEED)
