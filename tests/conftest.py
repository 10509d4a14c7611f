"""What every test starts from: the same random numbers, fresh Keras names, a quiet TensorFlow.

Set `HYPOTHESIS_PROFILE=thorough` to try many more examples per property, and new ones in each run.
"""

import os

import hypothesis
import pytest

SEED = 0

hypothesis.settings.register_profile("default", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config):
    """Sets what the libraries read when they are first imported; nothing above imports them.

    Test processes inherit it from the one that starts them, and so share the cores.
    """
    processes = config.getoption("numprocesses", None) or 1
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    for name, value in {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # On older processors TensorFlow leaves it off, and lacks channels_first and dilated transposes.
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # a GPU, where there is one, is shared too
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "MPLBACKEND": "Agg",
    }.items():
        os.environ.setdefault(name, value)


@pytest.fixture(autouse=True, scope="module")
def _fresh_keras():
    """Layer names count from 1 in each file, and fixtures of a whole file are seeded too."""
    import keras

    keras.utils.clear_session()
    keras.utils.set_random_seed(SEED)


@pytest.fixture(autouse=True)
def _seed(_fresh_keras):
    """A test sees the same random numbers whether it runs alone or after others."""
    import keras

    keras.utils.set_random_seed(SEED)
