import study_runs


def test_it_runs_every_method_once_and_is_resumed(tmp_path):
    study_runs.check("sparse_int8_cifar10.py", tmp_path)
