import pytest
import study_runs


@pytest.mark.thorough
def test_it_runs_every_method_once_and_is_resumed(tmp_path):
    study_runs.check("deep_compression.py", tmp_path)
