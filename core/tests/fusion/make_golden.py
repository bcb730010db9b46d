#!/usr/bin/env python3
"""Writes expected.json beside this script, for ../fusion.rs.

    python3 -m venv VENV && VENV/bin/pip install ranx==0.3.21
    VENV/bin/python core/tests/fusion/make_golden.py

The lists are random with a fixed seed; the fused scores are those of ranx. What ranx has no function for is
computed here in one step and fused by ranx in the next: weights of RRF and of CombMNZ, scores normalised with
a theoretical minimum, and those of distribution-based fusion (numpy's mean and sample deviation).

No list has equal scores throughout: there ranx's min-max gives 0, and Sluice 1 (../../src/fusion/normalize.rs
says why). Nor has one two equal scores: ranx does not say in which order they are.
"""

import json
import pathlib
import random

import numpy
from ranx import Run
from ranx.fusion import comb_mnz, comb_sum, rrf, wsum
from ranx.normalization import min_max_norm

SEED = 60
HERE = pathlib.Path(__file__).parent
QUERY = "q"
RRF_K = 60


def single(scores):
    return Run({QUERY: scores})


def fused(run):
    return {document: float(score) for document, score in run.run[QUERY].items()}


def min_max(scores):
    return fused(min_max_norm(single(scores)))


def theoretical(scores, floor):
    high = max(scores.values())
    return {document: (score - floor) / (high - floor) for document, score in scores.items()}


def by_distribution(scores):
    values = numpy.array(list(scores.values()))
    mean, deviation = values.mean(), values.std(ddof=1)
    low, high = mean - 3 * deviation, mean + 3 * deviation
    return {document: float((score - low) / (high - low)) for document, score in scores.items()}


def weighted(lists, weights):
    return [{document: weight * score for document, score in scores.items()} for scores, weight in zip(lists, weights)]


def runs(lists):
    return [single(scores) for scores in lists]


def values(lists, floors, weights):
    """{method: {document: score}}."""
    normalised = [min_max(scores) for scores in lists]
    shares = [weight / sum(weights) for weight in weights]
    reciprocal = [fused(rrf([run], k=RRF_K)) for run in runs(lists)]
    bounded = [theoretical(scores, floor) for scores, floor in zip(lists, floors)]
    return {
        "rrf": fused(rrf(runs(lists), k=RRF_K)),
        "rrf_2": fused(rrf(runs(lists), k=2)),
        "rrf_weighted": fused(wsum(runs(reciprocal), weights)),
        "dbsf": fused(comb_sum(runs([by_distribution(scores) for scores in lists]))),
        "comb_sum": fused(comb_sum(runs(normalised))),
        "comb_sum_weighted": fused(wsum(runs(normalised), weights)),
        "comb_mnz": fused(comb_mnz(runs(normalised))),
        "comb_mnz_weighted": fused(comb_mnz(runs(weighted(normalised, weights)))),
        "comb_sum_raw": fused(comb_sum(runs(lists))),
        "convex_min_max": fused(wsum(runs(normalised), shares)),
        "convex_theoretical_min": fused(wsum(runs(bounded), shares)),
    }


def random_list(rng, documents, low, high):
    """Scores that f32 holds exactly, all different."""
    retrieved = rng.sample(documents, rng.randint(2, 16))
    steps = rng.sample(range(int(low * 1024), int(high * 1024)), len(retrieved))
    return dict(zip(retrieved, (step / 1024 for step in steps)))


def make_golden():
    rng = random.Random(SEED)
    documents = [f"doc{number:02}" for number in range(30)]
    cases = []
    for number in range(12):
        legs = [(0.0, 0.5, 30.0), (-1.0, -0.9, 1.0), (0.0, 0.1, 12.0)][: 2 + number % 2]
        lists = [random_list(rng, documents, low, high) for _, low, high in legs]
        weights = [rng.randint(1, 40) / 16 for _ in legs]
        floors = [floor for floor, _, _ in legs]
        expected = values(lists, floors, weights)
        cases.append({
            "legs": [
                {"floor": floor, "weight": weight, "scores": scores}
                for floor, weight, scores in zip(floors, weights, lists)
            ],
            "fused": {
                method: {document: round(score, 12) for document, score in sorted(of.items())}
                for method, of in expected.items()
            },
        })
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "expected.json").write_text("[\n" + lines + "\n]\n")


if __name__ == "__main__":
    make_golden()
