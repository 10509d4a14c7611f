import pytest
import study_runs


@pytest.mark.thorough
def test_it_runs_every_method_once_and_is_resumed(tmp_path):
    study_runs.check("distill_cifar10.py", tmp_path)
