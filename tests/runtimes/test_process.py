"""A function in a process of its own gives its result, or an error that tells what became of it."""

import os
import sys
import threading
import time
from pathlib import Path

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


@pytest.fixture(params=[(), ("fractions",)], ids=["fresh", "warm"])
def call(request):
    """How a process comes to be."""

    def call(*arguments, **options):
        return process.call(*arguments, warm=request.param, **options)

    yield call
    process._end()


def test_arrays_go_there_and_back(script, call):
    double = script("def double(array): return {'twice': 2 * array}")
    for _ in range(2):
        found = call(double, "double", array=np.arange(3))
        np.testing.assert_array_equal(found["twice"], [0, 2, 4])


def test_error_keeps_its_message(script, call):
    fail = script("def fail(): raise RuntimeError('node 7 failed to prepare')")
    with pytest.raises(process.ChildError, match="^RuntimeError: node 7 failed to prepare$"):
        call(fail, "fail")


def test_abort_is_an_error_with_the_last_words_but_not_the_log(script, call):
    abort = script(
        "import os, sys\n"
        "def abort():\n"
        "    print('LLVM ERROR: no idea\\nI0000 00:00 cpu.cc:1] fine\\nINFO: XNNPACK', file=sys.stderr)\n"
        "    os.abort()"
    )
    with pytest.raises(process.ChildError, match="killed by SIGABRT. Its last words: LLVM ERROR: no idea$"):
        call(abort, "abort")


def test_exit_without_an_answer_is_an_error(script, call):
    with pytest.raises(process.ChildError, match="ended with exit code 3$"):
        call(script("import os\ndef leave(): os._exit(3)"), "leave")


def test_hanging_process_is_ended(script, call):
    hang = script("import os, time\ndef hang(path): open(path, 'w').write(str(os.getpid())); time.sleep(60)")
    note = hang.with_name("pid")
    with pytest.raises(process.ChildError, match="did not finish within 1.5 s"):
        call(hang, "hang", path=str(note), timeout_s=1.5)
    for _ in range(100):  # until its parent has taken note
        if not Path("/proc", note.read_text()).exists():
            break
        time.sleep(0.05)
    else:
        assert sys.platform != "linux", "it still runs"
    assert call(script("def fine(): return 1"), "fine") == 1


def test_output_of_the_process_does_not_reach_the_terminal(script, call, capfd):
    talk = script("import os\ndef talk(): print('a'); os.write(1, b'b'); os.write(2, b'c')")
    call(talk, "talk")
    assert capfd.readouterr() == ("", "")


needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="processes are fresh ones elsewhere")
TELL = "import os, sys\ndef tell(): return os.getpid(), os.getppid(), 'fractions' in sys.modules"


@pytest.fixture
def tell(script):
    path = script(TELL)
    yield lambda *modules: process.call(path, "tell", warm=modules)
    process._end()


@needs_fork
def test_a_warm_process_has_imported_modules_and_is_one_of_its_own(tell):
    (first, parent, imported), (second, same, _) = tell("fractions"), tell("fractions")
    assert imported and first != second and parent == same != os.getpid()
    assert tell()[1:] == (os.getpid(), False)


@needs_fork
def test_another_environment_needs_another_parent(tell, monkeypatch):
    before = tell("fractions")[1]
    monkeypatch.setenv("TFCOMPRESS_TEST", "1")
    assert tell("fractions")[1] != before


@needs_fork
def test_where_no_process_can_be_forked_it_is_a_fresh_one(tell):
    assert tell("no_such_module")[1] == os.getpid()
    tell("fractions")
    process._parent._process.kill()
    process._parent._process.wait()
    assert tell("fractions")[1] == os.getpid()
    assert tell("fractions")[1] != os.getpid()


@needs_fork
def test_a_parent_that_ends_meanwhile_is_an_error(script):
    orphan = script(
        "import os, signal, time\ndef orphan(): os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)"
    )
    with pytest.raises(process.ChildError, match="had forked it ended before it did"):
        process.call(orphan, "orphan", warm=("fractions",), timeout_s=20)
    assert process._parent is None


@needs_fork
def test_threads_may_call_at_once(script):
    path, found = script("import time\ndef wait(s): time.sleep(s); return s"), []

    def wait():
        found.append(process.call(path, "wait", warm=("fractions",), s=0.5))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    process._end()
    assert found == [0.5] * 3


@needs_fork
def test_it_goes_when_it_was_idle(tell, monkeypatch):
    monkeypatch.setattr(process, "IDLE_S", 0.2)
    tell("fractions")
    assert process._parent._process.wait(timeout=60) == 0


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
