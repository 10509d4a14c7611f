import os
import subprocess
import sys

import study_runs


def test_light_heads_are_fitted_and_exported(tmp_path):
    command = [sys.executable, "lda_heads.py", "--epochs", "4", "--out-dir", str(tmp_path)]
    environment = os.environ | study_runs.WITHOUT_ONEDNN
    done = subprocess.run(
        command, cwd=study_runs.EXAMPLES, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "quadratic discriminant" in done.stdout and (tmp_path / "linear_SVM.tflite").stat().st_size
