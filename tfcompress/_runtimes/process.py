"""Call a function of a Python file in a Python process of its own.

What runs there can abort, hang or write to the terminal, as runtimes written in C++ do: here that is an
error that says so. The file is executed by its path, so the process imports only what the file does.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     script = pathlib.Path(folder, "sums.py")
...     _ = script.write_text("def add(a, b): return a + b")
...     call(script, "add", a=1, b=2)
3
"""

import atexit
import contextlib
import json
import multiprocessing.connection
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any

TIMEOUT_S = 1800.0
IDLE_S = 60.0

_BOOTSTRAP = """
import importlib.util, pathlib, pickle, sys
script, function, folder = sys.argv[1:]
spec = importlib.util.spec_from_file_location("script", script)
module = importlib.util.module_from_spec(spec)
try:
    spec.loader.exec_module(module)
    arguments = pickle.loads(pathlib.Path(folder, "arguments").read_bytes())
    answer = (True, getattr(module, function)(**arguments))
except Exception as error:
    answer = (False, f"{type(error).__name__}: {error}")
pathlib.Path(folder, "answer").write_bytes(pickle.dumps(answer))
"""

# Imports modules; then, for each line that it reads, forks a child that does what a fresh process would, and
# writes the number of that, and how it ended. It goes when nobody asks for long, or can ask any more.
_PARENT = """
import importlib, json, os, select, sys, traceback
bootstrap, idle, *modules = sys.argv[1:]
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for module in modules:
    importlib.import_module(module)
while select.select([0], [], [], float(idle))[0] and (line := sys.stdin.readline()):
    arguments = json.loads(line)
    child = os.fork()
    if not child:
        code = 1
        try:
            answers.close()  # whoever waits for them learns if the parent ends
            os.chdir(arguments[-1])
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(0, 1)
            os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT), 2)
            sys.argv[1:] = arguments
            exec(bootstrap, {"__name__": "__main__"})
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    print(child, file=answers, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
"""

# What the runtimes write to the terminal must not come between the answers.
_LOOP = """
import importlib.util, os, pickle, sys
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
spec = importlib.util.spec_from_file_location("script", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
while True:
    try:
        function, arguments = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    try:
        answer = (True, getattr(module, function)(**arguments))
    except Exception as error:
        answer = (False, f"{type(error).__name__}: {error}")
    pickle.dump(answer, answers)
    answers.flush()
"""

_LOG = re.compile(r"\s*$|[IW]\d{4} |INFO: |WARNING: All log messages")


class ChildError(RuntimeError):
    """The process raised an error, crashed or took too long; the message says which."""


def call(
    script: pathlib.Path,
    function: str,
    *,
    timeout_s: float = TIMEOUT_S,
    warm: tuple[str, ...] = (),
    **arguments: Any,
) -> Any:
    """Returns `function(**arguments)` of the file `script`, computed in a process of its own.

    Args:
        script: the path of a Python file.
        function: the name of a function in it.
        timeout_s: seconds until the process is killed.
        warm: modules that are slow to import and may be there already: the process is then forked from one
            that has imported them, which waits a minute for further calls. Where processes cannot be
            forked, and while another thread has it fork one, the process is a fresh one all the same.
        arguments: what the function is called with. They travel as a pickle, as does the answer, so
            they consist of NumPy arrays and of types that Python itself has.

    Raises:
        ChildError: the function raised an error, or the process crashed or took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "arguments").write_bytes(pickle.dumps(arguments))
        words = str(script), function, folder
        code = _forked(words, timeout_s, warm) if warm else None
        if code is None:
            code = _fresh(words, timeout_s)
        answer = pathlib.Path(folder, "answer")
        if not answer.exists():
            raise ChildError(f"the process {_ending(code)}{_last_words(pathlib.Path(folder, 'log'))}")
        done, value = pickle.loads(answer.read_bytes())
    if not done:
        raise ChildError(value)
    return value


def _fresh(words: tuple[str, str, str], timeout_s: float) -> int:
    """The exit code of a process that starts from nothing."""
    command = [sys.executable, "-W", "ignore", "-c", _BOOTSTRAP, *words]
    with pathlib.Path(words[-1], "log").open("wb") as log:
        try:
            return subprocess.run(
                command,
                cwd=words[-1],
                env=_environment(),
                stdout=subprocess.DEVNULL,
                stderr=log,
                timeout=timeout_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise _late(timeout_s) from None


class _Parent:
    """A process that has imported modules, and forks one for each call."""

    def __init__(self, modules: tuple[str, ...], environment: dict[str, str]):
        self.made_for = (os.getpid(), modules, environment)
        command = [sys.executable, "-W", "ignore", "-c", _PARENT, _BOOTSTRAP, str(IDLE_S), *modules]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, bufsize=0, stdin=pipe, stdout=pipe, stderr=nothing, env=environment
        )
        self._child: int | None = None

    def call(self, words: tuple[str, str, str], timeout_s: float) -> int | None:
        """The exit code of the child; None where this process has gone before there was one."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(words).encode() + b"\n")
            self._child = int(self._process.stdout.readline())
        except (BrokenPipeError, ValueError):
            return None
        if not multiprocessing.connection.wait([self._process.stdout.fileno()], timeout_s):
            raise _late(timeout_s)
        code = self._process.stdout.readline()
        if not code:
            raise ChildError("the process that had forked it ended before it did")
        self._child = None
        return int(code)

    def end(self) -> None:
        if self.made_for[0] != os.getpid():
            return  # it belongs to the process that this one was forked from
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()


_parent: _Parent | None = None
_one_at_a_time = threading.Lock()


def _forked(words: tuple[str, str, str], timeout_s: float, modules: tuple[str, ...]) -> int | None:
    """The exit code of a process that has `modules` from the start; None where there is none."""
    global _parent
    if sys.platform != "linux" or not _one_at_a_time.acquire(blocking=False):
        return None
    code = None
    try:
        environment = _environment()
        if _parent is None or _parent.made_for != (os.getpid(), modules, environment):
            _end()
            _parent = _Parent(modules, environment)
        code = _parent.call(words, timeout_s)
    finally:
        if code is None:
            _end()
        _one_at_a_time.release()
    return code


@atexit.register
def _end() -> None:
    global _parent
    if _parent is not None:
        _parent.end()
    _parent = None


def _late(timeout_s: float) -> ChildError:
    return ChildError(f"the process did not finish within {timeout_s:g} s")


class Server:
    """A process that has executed a Python file, and calls its functions one after the other.

    For what is slow to begin and asked for often. Use it in a `with` statement.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     script = pathlib.Path(folder, "sums.py")
    ...     _ = script.write_text("def add(a, b): return a + b")
    ...     with Server(script) as server:
    ...         server.call("add", a=1, b=2), server.call("add", a="x", b="y")
    (3, 'xy')
    """

    def __init__(self, script: pathlib.Path):
        self.script = script

    def __enter__(self) -> "Server":
        command = [sys.executable, "-W", "ignore", "-c", _LOOP, str(self.script)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=_environment()
        )
        return self

    def __exit__(self, *error: Any) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def call(self, function: str, **arguments: Any) -> Any:
        """Returns `function(**arguments)` of the file.

        Raises:
            ChildError: the function raised an error, or the process crashed.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            pickle.dump((function, arguments), self._process.stdin)
            self._process.stdin.flush()
            done, value = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise ChildError(f"the process {_ending(self._process.wait())}") from error
        if not done:
            raise ChildError(value)
        return value


def _environment() -> dict[str, str]:
    """The same modules to import; no GPU, whose memory this process may have taken; a quiet TensorFlow."""
    places = [str(pathlib.Path(place).resolve()) for place in sys.path if place]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(places)}


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"crashed: it was killed by {signal.Signals(-code).name}"


def _last_words(log: pathlib.Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if not _LOG.match(line)]
    return f". Its last words: {' '.join(lines[-3:])[-500:]}" if lines else ""
