#!/usr/bin/env python3
"""Writes qrels.txt, run.txt and expected.json beside this script, for ../ir_measures.rs.

    python3 -m venv VENV && VENV/bin/pip install ir-measures==0.4.3
    VENV/bin/python core/tests/ir_measures/make_golden.py

Judgments and run are random with a fixed seed; the expected values are those of ir-measures, all of them
from its pytrec_eval provider, that is from trec_eval's code. That provider has no reciprocal rank and no F1
with a cutoff: the two are derived from its RR, P@k and R@k, and checked against the msmarco provider
and SetF wherever these mean the same.

With the arguments CANDIDATES.jsonl QRELS it writes nothing, and prints the values for the candidates in
the order in which they are given.
"""

import json
import pathlib
import random
import sys

import ir_measures
from ir_measures import AP, RR, P, R, SetF, SetP, SetR, Success, nDCG

SEED = 20190
HERE = pathlib.Path(__file__).parent
# Longer than any ranking here.
ALL = 1000

DIRECT = {
    "ndcg": nDCG,
    "ndcg@5": nDCG @ 5,
    "ndcg@10": nDCG @ 10,
    "mrr": RR,
    "map": AP,
    "recall": SetR,
    "recall@5": R @ 5,
    "recall@100": R @ 100,
    "precision": SetP,
    "precision@10": P @ 10,
    "f1": SetF,
    "hit_rate": Success @ ALL,
    "hit_rate@1": Success @ 1,
    "hit_rate@10": Success @ 10,
}
CUTOFF = 10


def values_by_query(qrels, run):
    """{query: {metric: value}} for every query of qrels."""
    measures = set(DIRECT.values()) | {P @ CUTOFF, R @ CUTOFF}
    found = {}
    for metric in ir_measures.pytrec_eval.iter_calc(measures, qrels, run):
        found.setdefault(metric.query_id, {})[metric.measure] = metric.value
    values = {}
    for query, of in found.items():
        values[query] = {name: of[measure] for name, measure in DIRECT.items()}
        values[query][f"mrr@{CUTOFF}"] = of[RR] if of[RR] >= 1 / CUTOFF else 0.0
        p, r = of[P @ CUTOFF], of[R @ CUTOFF]
        values[query][f"f1@{CUTOFF}"] = 2 * p * r / (p + r) if p + r else 0.0
    check_derived(qrels, run, values)
    return values


def check_derived(qrels, run, values):
    # msmarco orders equal scores by ascending id, trec_eval by descending: compare where none are equal.
    untied = {query: scores for query, scores in run.items() if len(set(scores.values())) == len(scores)}
    # SetF of the first k divides by what was retrieved: compare where that is k.
    first = {
        query: dict(sorted(scores.items(), key=lambda item: -item[1])[:CUTOFF])
        for query, scores in untied.items()
        if len(scores) >= CUTOFF
    }
    for provider, measure, part, name in [
        (ir_measures.msmarco, RR @ CUTOFF, untied, f"mrr@{CUTOFF}"),
        (ir_measures.pytrec_eval, SetF, first, f"f1@{CUTOFF}"),
    ]:
        checked = 0
        for metric in provider.iter_calc([measure], qrels, part):
            if metric.query_id in part:
                assert abs(metric.value - values[metric.query_id][name]) < 1e-12, (name, metric)
                checked += 1
        assert checked > 10, name


def means(qrels, run):
    """(queries, {metric: mean}) over the queries with a relevant document, which is what Sluice averages over."""
    kept = {query: grades for query, grades in qrels.items() if max(grades.values()) >= 1}
    values = values_by_query(kept, run)
    mean = {name: sum(of[name] for of in values.values()) / len(kept) for name in next(iter(values.values()))}
    aggregate = ir_measures.pytrec_eval.calc_aggregate(DIRECT.values(), kept, run)
    for name, measure in DIRECT.items():
        assert abs(aggregate[measure] - mean[name]) < 1e-12, name
    return values, mean


def random_collection(rng):
    documents = [f"doc{number}" for number in range(200)]
    qrels, run = {}, {}
    for number in range(60):
        query = f"q{number}"
        pool = rng.sample(documents, rng.randint(1, 24))
        hopeless = number % 10 == 3
        grades = [-2, -1, 0] if hopeless else [-2, -1, 0, 0, 0, 1, 1, 2, 3]
        if number % 10 != 9:
            qrels[query] = {document: rng.choice(grades) for document in pool}
        if number % 10 != 7:
            size = rng.randint(101, 150) if number % 20 == 0 else rng.randint(1, 30)
            # Judged documents more often than others, and some never.
            likely = [document for document in pool if rng.random() < 0.7]
            retrieved = list(dict.fromkeys(likely + rng.sample(documents, size)))[:size]
            # Few distinct scores: most are tied.
            score = (lambda: rng.randint(-2, 2)) if number % 5 == 1 else (lambda: round(rng.uniform(-9, 9), 5))
            run[query] = {document: score() for document in retrieved}
    return qrels, run


def write_lines(name, lines, rng):
    rng.shuffle(lines)
    separators = [" ", " ", "\t", "  "]
    text = "".join(rng.choice(separators).join(columns) + rng.choice(["\n", "\n", " \n"]) for columns in lines)
    (HERE / name).write_text(text, newline="")


def make_golden():
    rng = random.Random(SEED)
    qrels, run = random_collection(rng)
    values, mean = means(qrels, run)
    # The rank column says nothing, and is wrong here on purpose.
    ranked = [(q, "Q0", d, str(rng.randint(1, 99)), str(s), "golden") for q, of in run.items() for d, s in of.items()]
    judged = [(q, "0", d, str(grade)) for q, of in qrels.items() for d, grade in of.items()]
    write_lines("qrels.txt", judged, rng)
    write_lines("run.txt", ranked, rng)
    rounded = {query: {name: round(value, 12) for name, value in of.items()} for query, of in sorted(values.items())}
    expected = {
        "ir_measures": ir_measures.__version__,
        "mean": {name: round(value, 12) for name, value in mean.items()},
        "by_query": rounded,
    }
    rows = [f'"{key}": {json.dumps(value)}' for key, value in expected.items() if key != "by_query"]
    by_query = ",\n".join(f'  "{query}": {json.dumps(of)}' for query, of in rounded.items())
    (HERE / "expected.json").write_text("{\n" + ",\n".join(rows) + f',\n"by_query": {{\n{by_query}\n}}\n}}\n')


def print_given_order(candidates, qrels):
    grades = {}
    for qrel in ir_measures.read_trec_qrels(qrels):
        grades.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    run = {}
    for line in pathlib.Path(candidates).read_text().splitlines():
        query = json.loads(line)
        run[query["qid"]] = {document["id"]: -rank for rank, document in enumerate(query["documents"])}
    values, mean = means(grades, run)
    print(json.dumps({"queries": len(values), "mean": mean}, indent=2))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print_given_order(*sys.argv[1:])
    else:
        make_golden()
