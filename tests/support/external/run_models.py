"""Runs .tflite files on the interpreter that is installed, whichever its age and machine.

    python run_models.py AUTO,BUILTIN_REF model.tflite ...

Reads the inputs of each from <model>.npz, `input_<tensor index>` each, writes its outputs to
<model>.<resolver>.npz, and prints a line of JSON for each model and resolver: what went wrong, or
an empty text. Stands alone: it runs on Python 3.7, and where edgeq is not installed.
"""

import importlib
import json
import sys

import numpy as np


def load():
    for name in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise SystemExit("no interpreter is installed")


def run(runtime, path, resolver):
    kind = getattr(runtime.OpResolverType, resolver)
    interpreter = runtime.Interpreter(path, experimental_op_resolver_type=kind, num_threads=1)
    interpreter.allocate_tensors()
    sample = np.load(path + ".npz")
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], sample[f"input_{detail['index']}"])
    interpreter.invoke()
    outputs = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
    np.savez(f"{path}.{resolver}.npz", *outputs)


def main():
    runtime = load()
    for path in sys.argv[2:]:
        for resolver in sys.argv[1].split(","):
            try:
                run(runtime, path, resolver)
                text = ""
            except (RuntimeError, ValueError) as error:
                text = " ".join(str(error).split())
            print(json.dumps(text), flush=True)


main()
