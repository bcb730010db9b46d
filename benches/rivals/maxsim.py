"""maxsim-cpu and NumPy: the rivals of `bench maxsim`.

    python maxsim.py FOLDER THREADS

Speaks JSON, a line each way. First it says what it is: `{"versions": {"maxsim-cpu": "0.1.0", "numpy": "2.4.6"}}`.

`{"load": {"documents", "tokens", "dim", "query_tokens"}}` reads the documents `[documents, tokens, dim]` and the query
`[query_tokens, dim]`, f32, from `FOLDER/documents.f32` and `FOLDER/query.f32`, and answers `{"numpy": WAY}`: the fastest
of several ways to say MaxSim in NumPy, which is the one that runs. `{"score": RIVAL}` answers `{"scores", "seconds"}`,
with time taken around the one call. It ends with its standard input.
"""

import importlib.metadata
import json
import pathlib
import sys
import time

import maxsim_cpu
import numpy as np


def product_of_all(query, documents):
    """One matrix product for all documents."""
    similarities = documents.reshape(-1, documents.shape[2]) @ query.T
    return similarities.reshape(*documents.shape[:2], len(query)).max(axis=1).sum(axis=1)


def product_of_each(query, documents):
    """One matrix product a document, so that its similarities stay in the caches."""
    return np.array([(document @ query.T).max(axis=0).sum() for document in documents])


def product_of_each_transposed(query, documents):
    """The same, with document tokens in the columns."""
    return np.array([(query @ document.T).max(axis=1).sum() for document in documents])


NUMPY = (product_of_all, product_of_each, product_of_each_transposed)


def timed(function, *arguments):
    started = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - started


def fastest(ways, *arguments, rounds=3):
    return min(ways, key=lambda way: min(timed(way, *arguments)[1] for _ in range(rounds)))


def main(folder):
    folder = pathlib.Path(folder)
    answer({"versions": {name: importlib.metadata.version(name) for name in ("maxsim-cpu", "numpy")}})
    rivals = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "load" in question:
            shape = question["load"]
            documents = np.fromfile(folder / "documents.f32", np.float32)
            documents = documents.reshape(shape["documents"], shape["tokens"], shape["dim"])
            query = np.fromfile(folder / "query.f32", np.float32).reshape(shape["query_tokens"], shape["dim"])
            way = fastest(NUMPY, query, documents)
            rivals = {"numpy": way, "maxsim-cpu": maxsim_cpu.maxsim_scores}
            answer({"numpy": way.__name__})
        else:
            scores, seconds = timed(rivals[question["score"]], query, documents)
            answer({"scores": [float(score) for score in scores], "seconds": seconds})


def answer(value):
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
