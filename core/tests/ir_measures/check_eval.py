#!/usr/bin/env python3
"""Compares what `sluice eval --json --run-out RUN` printed with ir-measures on the same run.

    pip install ir-measures==0.4.3
    python3 check_eval.py QRELS RUN EVAL_JSON

Exits with 1 if a metric differs by more than 1e-6. F1 with a cutoff is not in ir-measures: it is taken as the
harmonic mean of P@k and R@k of each query.
"""

import json
import sys

import ir_measures
from ir_measures import AP, P, R, RR, Success, nDCG

TOLERANCE = 1e-6


def main(qrels_path: str, run_path: str, eval_path: str) -> int:
    qrels = list(ir_measures.read_trec_qrels(qrels_path))
    # Queries without a relevant document are left out, as by `sluice eval`.
    relevant = {qrel.query_id for qrel in qrels if qrel.relevance > 0}
    qrels = [qrel for qrel in qrels if qrel.query_id in relevant]
    run = list(ir_measures.read_trec_run(run_path))
    measures = {
        "ndcg@10": nDCG @ 10,
        "mrr@10": RR @ 10,
        "map": AP,
        "recall@100": R @ 100,
        "precision@10": P @ 10,
        "hit_rate@10": Success @ 10,
    }
    expected = dict.fromkeys(measures, 0.0)
    values = ir_measures.calc_aggregate(measures.values(), qrels, run)
    for name, measure in measures.items():
        expected[name] = values[measure]
    expected["f1@10"] = mean_f1(qrels, run)

    with open(eval_path, encoding="utf-8") as file:
        found = json.load(file)["metrics"]
    worst = 0.0
    for name, value in expected.items():
        distance = abs(found[name] - value)
        worst = max(worst, distance)
        print(f"{name:14} sluice {found[name]:.8f}  ir-measures {value:.8f}  difference {distance:.1e}")
    return 0 if worst <= TOLERANCE else 1


def mean_f1(qrels, run) -> float:
    precision, recall = P @ 10, R @ 10
    by_query: dict[str, dict] = {}
    for metric in ir_measures.iter_calc([precision, recall], qrels, run):
        by_query.setdefault(metric.query_id, {})[metric.measure] = metric.value
    total = 0.0
    for values in by_query.values():
        p, r = values[precision], values[recall]
        total += 2 * p * r / (p + r) if p + r > 0 else 0.0
    return total / len({qrel.query_id for qrel in qrels})


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
