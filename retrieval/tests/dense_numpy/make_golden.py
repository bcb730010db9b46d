#!/usr/bin/env python3
"""Writes expected.json beside this script, for ../dense_numpy.rs.

    python3 -m venv VENV && VENV/bin/pip install numpy==2.4.6
    VENV/bin/python retrieval/tests/dense_numpy/make_golden.py

The vectors are drawn here and there by the same generator (splitmix64), component by component, multiples of 2^-12 that
f32 holds exactly: clusters, so that scores are near each other. The scores are NumPy's, in f64, rounded to 12 digits;
the best K of each query, larger first, equal ones by row.
"""

import json
import pathlib

import numpy

HERE = pathlib.Path(__file__).parent
SEED = 384
ROWS, QUERIES, DIM, CENTRES, K = 1500, 6, 384, 25, 100
MASK = (1 << 64) - 1


def splitmix64(seed):
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        mixed = state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        yield mixed ^ (mixed >> 31)


def draw():
    numbers = splitmix64(SEED)

    def vector():
        # The top 13 bits, as -4096 to 4095.
        return [(next(numbers) >> 51) - 4096 for _ in range(DIM)]

    centres = [vector() for _ in range(CENTRES)]

    def near(nth):
        return [(a + b) / 4096 for a, b in zip(centres[nth % CENTRES], vector())]

    rows = numpy.array([near(nth) for nth in range(ROWS)], dtype=numpy.float32)
    queries = numpy.array([near(nth) for nth in range(QUERIES)], dtype=numpy.float32)
    return rows.astype(numpy.float64), queries.astype(numpy.float64)


def make_golden():
    rows, queries = draw()
    norm = numpy.linalg.norm
    metrics = {
        "cosine": lambda query: rows @ query / (norm(rows, axis=1) * norm(query)),
        "dot": lambda query: rows @ query,
        "euclidean": lambda query: -norm(rows - query, axis=1),
    }
    cases = []
    for nth, query in enumerate(queries):
        for metric, scored in metrics.items():
            scores = scored(query)
            best = numpy.lexsort((numpy.arange(ROWS), -scores))[:K]
            hits = [[int(row), round(float(scores[row]), 12)] for row in best]
            cases.append({"query": nth, "metric": metric, "hits": hits})
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "expected.json").write_text("[\n" + lines + "\n]\n")


if __name__ == "__main__":
    make_golden()
