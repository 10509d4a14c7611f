import os
import subprocess
import sys

import pytest
import study_runs

pytest.importorskip("distributed", reason="the extra [cluster] is not installed")


def test_it_finds_the_same_mask_on_two_workers():
    command = [sys.executable, "random_masks_on_a_cluster.py", "--candidates", "4", "--epochs", "1"]
    environment = os.environ | study_runs.WITHOUT_ONEDNN
    done = subprocess.run(
        command, cwd=study_runs.EXAMPLES, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Both found the same mask." in done.stdout and "2 workers" in done.stdout
