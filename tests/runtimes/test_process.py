"""A function in a process of its own gives its result, or an error that tells what became of it."""

import numpy as np
import pytest

from tfcompress._runtimes import process


@pytest.fixture
def script(tmp_path):
    def write(source):
        path = tmp_path / "script.py"
        path.write_text(source)
        return path

    return write


def test_arrays_go_there_and_back(script):
    double = script("def double(array): return {'twice': 2 * array}")
    found = process.call(double, "double", array=np.arange(3))
    np.testing.assert_array_equal(found["twice"], [0, 2, 4])


def test_error_keeps_its_message(script):
    fail = script("def fail(): raise RuntimeError('node 7 failed to prepare')")
    with pytest.raises(process.ChildError, match="^RuntimeError: node 7 failed to prepare$"):
        process.call(fail, "fail")


def test_abort_is_an_error_with_the_last_words_but_not_the_log(script):
    abort = script(
        "import os, sys\n"
        "def abort():\n"
        "    print('LLVM ERROR: no idea\\nI0000 00:00 cpu.cc:1] fine\\nINFO: XNNPACK', file=sys.stderr)\n"
        "    os.abort()"
    )
    with pytest.raises(process.ChildError, match="killed by SIGABRT. Its last words: LLVM ERROR: no idea$"):
        process.call(abort, "abort")


def test_exit_without_an_answer_is_an_error(script):
    with pytest.raises(process.ChildError, match="ended with exit code 3$"):
        process.call(script("import os\ndef leave(): os._exit(3)"), "leave")


def test_hanging_process_is_ended(script):
    with pytest.raises(process.ChildError, match="did not finish within 0.5 s"):
        process.call(script("import time\ndef hang(): time.sleep(60)"), "hang", timeout_s=0.5)


def test_output_of_the_process_does_not_reach_the_terminal(script, capfd):
    talk = script("import os\ndef talk(): print('a'); os.write(1, b'b'); os.write(2, b'c')")
    process.call(talk, "talk")
    assert capfd.readouterr() == ("", "")


def test_a_server_answers_one_call_after_the_other(script):
    count = script("calls = []\ndef count(x): calls.append(x); return len(calls), 2 * x")
    with process.Server(count) as server:
        assert server.call("count", x=1) == (1, 2)
        first, array = server.call("count", x=np.arange(3))
        assert first == 2 and array.tolist() == [0, 2, 4]


def test_a_server_goes_on_after_an_error_and_not_after_a_crash(script):
    source = "import os\ndef fail(): raise KeyError('no')\ndef die(): os._exit(4)\ndef fine(): return 1"
    with process.Server(script(source)) as server:
        with pytest.raises(process.ChildError, match="KeyError: 'no'"):
            server.call("fail")
        assert server.call("fine") == 1 and server.alive
        with pytest.raises(process.ChildError, match="ended with exit code 4"):
            server.call("die")
        assert not server.alive
        with pytest.raises(process.ChildError, match="ended with exit code 4"):
            server.call("fine")


def test_output_of_a_server_does_not_come_between_its_answers(script, capfd):
    talk = script("import os\ndef talk(): print('a'); os.write(1, b'b'); os.write(2, b'c'); return 7")
    with process.Server(talk) as server:
        assert [server.call("talk"), server.call("talk")] == [7, 7]
    assert capfd.readouterr() == ("", "")
