"""Call a function of a Python file in a fresh Python process.

What runs there can abort, hang or write to the terminal, as runtimes written in C++ do: here that is an
error that says so. The file is executed by its path, so the process imports only what the file does.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     script = pathlib.Path(folder, "sums.py")
...     _ = script.write_text("def add(a, b): return a + b")
...     call(script, "add", a=1, b=2)
3
"""

import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from typing import Any

TIMEOUT_S = 1800.0

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


def call(script: pathlib.Path, function: str, *, timeout_s: float = TIMEOUT_S, **arguments: Any) -> Any:
    """Returns `function(**arguments)` of the file `script`, computed in a process of its own.

    Args:
        script: the path of a Python file.
        function: the name of a function in it.
        timeout_s: seconds until the process is killed.
        arguments: what the function is called with. They travel as a pickle, as does the answer, so
            they consist of NumPy arrays and of types that Python itself has.

    Raises:
        ChildError: the function raised an error, or the process crashed or took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "arguments").write_bytes(pickle.dumps(arguments))
        command = [sys.executable, "-W", "ignore", "-c", _BOOTSTRAP, str(script), function, folder]
        try:
            process = subprocess.run(
                command, cwd=folder, env=_environment(), capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise ChildError(f"the process did not finish within {timeout_s:g} s") from None
        answer = pathlib.Path(folder, "answer")
        if not answer.exists():
            raise ChildError(f"the process {_ending(process.returncode)}{_last_words(process.stderr)}")
        done, value = pickle.loads(answer.read_bytes())
    if not done:
        raise ChildError(value)
    return value


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


def _last_words(stderr: bytes) -> str:
    lines = [line for line in stderr.decode(errors="replace").splitlines() if not _LOG.match(line)]
    return f". Its last words: {' '.join(lines[-3:])[-500:]}" if lines else ""
