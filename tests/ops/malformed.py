"""Runs .tflite files one after the other with the delegate, and prints for each what came of it.

python malformed.py library options file ...
"""

import json
import sys

from ai_edge_litert.interpreter import Interpreter, load_delegate


def main(library: str, options: str, *files: str) -> None:
    for file in files:
        try:
            runner = Interpreter(file, experimental_delegates=[load_delegate(library, json.loads(options))])
            runner.allocate_tensors()
            runner.invoke()
        except (RuntimeError, ValueError) as error:
            print("refused:", " ".join(str(error).split()), flush=True)
        else:
            print("ran", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
