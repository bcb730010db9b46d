"""NumPy: the rival of the exact scan in `bench shard`.

    python dense.py FOLDER THREADS

Speaks JSON, a line each way. First it says what it is: `{"numpy": "2.4.6"}`.

`{"load": {"rows", "queries", "dim", "k"}}` reads rows `[rows, dim]` and queries `[queries, dim]`, f32, from
`FOLDER/rows.f32` and `FOLDER/queries.f32`, and answers `{"rows"}`. `"search"` finds the k largest cosines of each query,
one query after the other, in f32, and answers `{"seconds"}`, of all of them. `"exact"` answers `{"hits"}`: of each query
the k best as `[row, cosine]`, computed in f64, equal ones by row. It ends with its standard input.
"""

import json
import pathlib
import sys
import time

import numpy as np


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def best(rows, query, k):
    """The k best rows, best first."""
    scores = rows @ query
    found = np.argpartition(-scores, k)[:k]
    order = np.argsort(-scores[found], kind="stable")
    return found[order], scores[found][order]


def exact(rows, query, k):
    scores = rows @ query
    order = np.lexsort((np.arange(len(rows)), -scores))[:k]
    return [[int(row), float(scores[row])] for row in order]


def main(folder):
    folder = pathlib.Path(folder)
    answer({"numpy": np.__version__})
    for line in sys.stdin:
        question = json.loads(line)
        if question == "search":
            started = time.perf_counter()
            for query in queries:
                best(prepared, unit(query), k)
            answer({"seconds": time.perf_counter() - started})
        elif question == "exact":
            wide = unit(rows.astype(np.float64))
            answer({"hits": [exact(wide, query, k) for query in unit(queries.astype(np.float64))]})
        else:
            shape = question["load"]
            k = shape["k"]
            rows = np.fromfile(folder / "rows.f32", np.float32).reshape(shape["rows"], shape["dim"])
            queries = np.fromfile(folder / "queries.f32", np.float32).reshape(shape["queries"], shape["dim"])
            prepared = unit(rows)
            answer({"rows": len(rows)})


def answer(value):
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
