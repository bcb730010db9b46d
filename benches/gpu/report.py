"""Makes a table, and the JSON of a bench, of what maxsim_gpu and rivals.py found:

    python3 report.py OURS.json RIVALS.json COMMIT REPORT.json

RIVALS.json may be missing: then ours stands beside the device's copy bandwidth alone.
Ratios are better when larger. An upper limit of time is a rival that is just as fast as the limit.
"""

import json
import pathlib
import sys

# Share of the copy bandwidth at 10,000 documents, and seconds at 1,000 documents of 180 tokens in f16.
SHARE_TARGET, DOCUMENTS_OF_SHARE = 0.85, 10_000
LIMIT_CASE, LIMIT_SECONDS = ("f16", 1000, 180), 16e-6


def key(row):
    return row["storage"], row["documents"], row["tokens"]


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


def rows(ours, rivals):
    """Every comparison: with the copy, with the limit, with the ladder's lower steps, with each rival."""
    found = []
    copy = ours["copy_bytes_per_second"] / 1e12
    best = {key(case): case for case in ours["cases"] if case["step"] == "stream"}
    for where, case in best.items():
        storage, documents, tokens = where
        name = f"maxsim/{storage}/{documents}x{tokens}"
        rate = case["bytes"] / case["seconds"] / 1e12
        target = SHARE_TARGET if documents == DOCUMENTS_OF_SHARE else None
        found.append(row(name, "TB/s", rate, "device copy", copy, target))
        if where == LIMIT_CASE:
            limit = f"limit of {LIMIT_SECONDS * 1e6:.0f} µs"
            found.append(row(name, "scorings/s", 1 / case["seconds"], limit, 1 / LIMIT_SECONDS, 1.0))
        if "wall_seconds" in case:
            # Not a rival but a part: how much of a whole call, ids in and scores out, is the kernel.
            found.append(row(f"{name}/call", "scorings/s", 1 / case["wall_seconds"], "its kernel", 1 / case["seconds"], None))
        lower = [other for other in ours["cases"] if key(other) == where and other["step"] != "stream"]
        others = [(f"ours, {other['step']}", other) for other in lower]
        others += [(other["rival"], other) for other in rivals["rows"] if key(other) == where]
        for rival, other in others:
            found.append(row(name, "TB/s", rate, rival, case["bytes"] / other["seconds"] / 1e12, None))
    return found


def table(host, ours, found):
    lines = [f"maxsim on {host}", "", "| case | µs | TB/s | share of copy |", "|---|--:|--:|--:|"]
    copy = ours["copy_bytes_per_second"]
    for case in ours["cases"]:
        name = f"{case['step']} {case['storage']} {case['documents']} x {case['tokens']}"
        rate = case["bytes"] / case["seconds"]
        spread = f"{case['seconds'] * 1e6:.1f} ({case['seconds_min'] * 1e6:.1f}…{case['seconds_max'] * 1e6:.1f})"
        lines.append(f"| {name} | {spread} | {rate / 1e12:.2f} | {rate / copy:.0%} |")
    lines += ["", "| case | unit | ours | rival | rival's | ratio | target |", "|---|---|--:|---|--:|--:|--:|"]
    for one in found:
        target = "" if one["target"] is None else f"{one['target']} {'met' if one['ratio'] >= one['target'] else 'MISSED'}"
        values = [one["case"], one["unit"], one["ours"], one["rival"], one["rival_value"], one["ratio"], target]
        lines.append("| " + " | ".join(str(value) for value in values) + " |")
    return "\n".join(lines)


def main():
    if len(sys.argv) != 5:
        print(__doc__, file=sys.stderr)
        return 2
    ours_path, rivals_path, commit, report_path = sys.argv[1:]
    ours = json.loads(pathlib.Path(ours_path).read_text(encoding="utf-8"))
    rivals = {"rows": []}
    if pathlib.Path(rivals_path).is_file():
        rivals = json.loads(pathlib.Path(rivals_path).read_text(encoding="utf-8"))
    host = f"{ours['device']}, copy {ours['copy_bytes_per_second'] / 1e12:.2f} TB/s"
    found = rows(ours, rivals)
    print(table(host, ours, found))
    report = {"scenario": "maxsim_gpu", "host": host, "commit": commit, "rows": found}
    pathlib.Path(report_path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    sys.exit(main())
