"""Makes a table, and the JSON of a bench, of what encoder_gpu and encoder_rivals.py found:

    python3 encoder_report.py FOLDER OURS.json RIVALS.json COMMIT REPORT.json

FOLDER has the cases. RIVALS.json may be missing: then ours stands alone. FLOPs are those of the whole model over the
tokens that there are (no padding), so what is not computed for want of need counts as done: a share of the peak here is
what is called model FLOPs utilisation. Ratios are better when larger; an upper limit of time is a rival that is just as
fast as the limit.

Exit codes: 0 written; 1 our logits are not those of PyTorch in f32; 2 wrong usage.
"""

import json
import math
import pathlib
import sys

LIMIT_CASE, LIMIT_SECONDS = ("MiniLM-L6", "100x256"), 1.5e-3
SHARE_CASE, SHARE_MODELS, SHARE_TARGET = "100x256", ["BERT-base", "XLM-R-large"], 0.55
NATURAL_CASES, NATURAL_TARGET = ["100xnatural", "1000xnatural"], 2.0
TOLERANCE = 2e-3


def flops(model, lengths):
    hidden, inner = model["hidden"], model["intermediate"]
    products = 2 * sum(lengths) * (4 * hidden * hidden + 2 * hidden * inner)
    attention = 4 * hidden * sum(length * length for length in lengths)
    return model["layers"] * (products + attention)


def significant(value):
    return float(f"{value:.4g}")


def row(case, unit, ours, rival, rival_value, target):
    return {
        "case": case,
        "unit": unit,
        "ours": significant(ours),
        "rival": rival,
        "rival_value": significant(rival_value),
        "ratio": significant(ours / rival_value),
        "target": target,
    }


def compare(plan, ours, rivals):
    """Lines of the table, and rows of the report."""
    peak = rivals.get("peak_flops")
    lines = ["| model | pairs x tokens | ms | pairs/s | TFLOP/s | share of peak | rival | its ms | ratio |"]
    lines.append("|---|---|--:|--:|--:|--:|---|--:|--:|")
    rows = []
    measured = {model["name"]: {case["name"]: case for case in model["cases"]} for model in ours["models"]}
    others = {model["name"]: model["rows"] for model in rivals["models"]}
    for model in plan["models"]:
        for case in model["cases"]:
            name, count = f"encoder/{model['name']}/{case['name']}", len(case["lengths"])
            seconds = measured[model["name"]][case["name"]]["seconds"]
            rate = flops(model, case["lengths"]) / seconds
            if (model["name"], case["name"]) == LIMIT_CASE:
                limit = f"limit of {LIMIT_SECONDS * 1e3} ms"
                rows.append(row(name, "calls/s", 1 / seconds, limit, 1 / LIMIT_SECONDS, 1.0))
            share = ""
            if peak:
                target = SHARE_TARGET if case["name"] == SHARE_CASE and model["name"] in SHARE_MODELS else None
                rows.append(row(name, "TFLOP/s", rate / 1e12, "measured peak", peak / 1e12, target))
                share = f"{rate / peak:.0%}"
            own = f"| {model['name']} | {case['name']} | {seconds * 1e3:.3f} | {count / seconds:.0f} | {rate / 1e12:.1f} | {share} |"
            found = [other for other in others.get(model["name"], []) if other["name"] == case["name"]]
            for other in found:
                target = NATURAL_TARGET if case["name"] in NATURAL_CASES else None
                rows.append(row(name, "pairs/s", count / seconds, other["rival"], count / other["seconds"], target))
                lines.append(f"{own} {other['rival']} | {other['seconds'] * 1e3:.3f} | {other['seconds'] / seconds:.2f} |")
            if not found:
                lines.append(f"{own} | | |")
    return lines, rows


def number(value):
    return "no number" if value is None else f"{value:.2g}"


def oracle(ours, rivals):
    """A line for each model, and whether all are within the tolerance of PyTorch in f32."""
    lines, sound = [], True
    expected = {model["name"]: model["logits"] for model in rivals["models"]}
    for model in ours["models"]:
        check = model["check"]
        found = f"{model['name']} ({model['backend']}): {number(check['largest_distance'])} from the CPU in f32"
        if model["name"] in expected:
            # What is no number is written as null, and is no small distance.
            distances = [math.inf if a is None else abs(a - b) for a, b in zip(check["logits"], expected[model["name"]])]
            sound &= all(distance <= TOLERANCE for distance in distances)
            found += f", {max(distances):.2g} from PyTorch in f32"
        moved = check["pairs_whose_bits_depend_on_the_batch"]
        lines.append(f"{found}; pairs whose bits depend on the batch: {moved} of {check['pairs']}")
    return lines, sound


def main():
    if len(sys.argv) != 6:
        print(__doc__, file=sys.stderr)
        return 2
    folder, ours_path, rivals_path, commit, report_path = sys.argv[1:]
    plan = json.loads((pathlib.Path(folder) / "cases.json").read_text(encoding="utf-8"))
    ours = json.loads(pathlib.Path(ours_path).read_text(encoding="utf-8"))
    rivals = {"models": []}
    if pathlib.Path(rivals_path).is_file():
        rivals = json.loads(pathlib.Path(rivals_path).read_text(encoding="utf-8"))
    host = ours["device"]
    if "peak_flops" in rivals:
        host += f", {rivals['peak_flops'] / 1e12:.0f} TFLOP/s in f16, PyTorch {rivals['torch']}"
    checked, sound = oracle(ours, rivals)
    lines, rows = compare(plan, ours, rivals)
    print("\n".join([f"encoder on {host}", "", *checked, "", *lines]))
    missed = [one for one in rows if one["target"] is not None and one["ratio"] < one["target"]]
    for one in missed:
        print(f"MISSED: {one['case']}: {one['ratio']} of {one['rival']}, target {one['target']}")
    report = {"scenario": "encoder_gpu", "host": host, "commit": commit, "rows": rows}
    pathlib.Path(report_path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    sys.exit(main())
