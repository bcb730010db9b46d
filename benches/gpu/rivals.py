"""Times MaxSim of others on the first CUDA device: `python3 rivals.py` prints JSON.

PyTorch (einsum and max), late-interaction-kernels and flash-maxsim (Triton), on the shapes, and in the way, of
kernels/examples/maxsim_gpu.rs: sets of documents of four times the L2 cache together and at least five, in turn; the
median of rounds, each between two events around many calls. A rival that is missing or fails is left out, and said so.

Exit codes: 0 measured; 1 failed; 3 no PyTorch or no device.
"""

import json
import statistics
import sys

DIM, QUERY_ROWS = 128, 32
SHAPES = [(100, 180), (1000, 180), (1000, 300), (10000, 180), (10000, 300)]


def seconds(torch, call, sets, calls, rounds):
    """One call on each set in turn, `calls` times between two events."""
    for number in range(max(3, len(sets))):
        call(*sets[number % len(sets)])
    torch.cuda.synchronize()
    found = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for number in range(calls):
            call(*sets[number % len(sets)])
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1e3 / calls)
    return found


def formula(torch, query, documents):
    return torch.einsum("qd,ntd->nqt", query, documents).amax(-1).sum(-1)


def candidates(torch, storage):
    """Name and function of each rival; of a set's (query, documents) for f16, and of its quantised parts for int8."""
    found = []
    if storage == "f16":
        found.append(("PyTorch einsum", lambda query, documents: formula(torch, query, documents)))
        try:
            from late_interaction_kernels import maxsim

            found.append(("late-interaction-kernels", lambda query, documents: maxsim(query[None], documents)[0]))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a rival, it is left out
            print(f"late-interaction-kernels is left out: {error}", file=sys.stderr)
    try:
        import flash_maxsim

        if storage == "f16":
            found.append(("flash-maxsim", flash_maxsim.flash_maxsim))
        else:
            found.append(
                (
                    "flash-maxsim",
                    lambda query, documents, scales, codes, query_scales: flash_maxsim.flash_maxsim_int8x8(
                        query, documents, scales, codes, query_scales
                    ),
                )
            )
    except Exception as error:  # noqa: BLE001
        print(f"flash-maxsim is left out: {error}", file=sys.stderr)
    return found


def make_sets(torch, storage, documents, tokens, count):
    """Sets of random vectors; int8: also quantised as flash-maxsim wants it."""
    query = torch.rand(QUERY_ROWS, DIM, device="cuda", dtype=torch.float16) * 2 - 1
    sets = []
    for _ in range(count):
        vectors = torch.rand(documents, tokens, DIM, device="cuda", dtype=torch.float16) * 2 - 1
        if storage == "f16":
            sets.append((query, vectors))
            continue
        from flash_maxsim import quantize_int8_symmetric, quantize_query_int8

        codes, query_scales = quantize_query_int8(query)
        quantised, scales = quantize_int8_symmetric(vectors)
        sets.append((query, quantised, scales.squeeze(-1), codes, query_scales))
    return sets


def check(torch, storage, call, one):
    """A rival that computes something else is no rival."""
    found = call(*one)[:16].float()
    documents = one[1][:16].float()
    if storage == "int8":
        documents = documents * one[2][:16].float()[..., None]
    expected = formula(torch, one[0].float(), documents)
    worst = ((found - expected).abs() / expected.abs().clamp_min(1)).max().item()
    if not worst < 0.02:
        raise RuntimeError(f"differs from the formula by {worst:.3g}")


def measure(torch, storage, documents, tokens, quick):
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    set_bytes = documents * tokens * (DIM * 2 if storage == "f16" else DIM + 4)
    count = max(5, -(-4 * l2 // set_bytes))
    rows = []
    try:
        sets = make_sets(torch, storage, documents, tokens, count)
    except Exception as error:  # noqa: BLE001
        print(f"{storage} {documents} x {tokens} is left out: {error}", file=sys.stderr)
        return rows
    for name, call in candidates(torch, storage):
        try:
            check(torch, storage, call, sets[0])
            found = seconds(torch, call, sets, count * (1 if quick else 4), 3 if quick else 10)
        except Exception as error:  # noqa: BLE001
            print(f"{name}, {storage} {documents} x {tokens}, is left out: {error}", file=sys.stderr)
            continue
        row = {"storage": storage, "documents": documents, "tokens": tokens, "rival": name}
        rows.append({**row, "seconds": statistics.median(found), "seconds_min": min(found), "seconds_max": max(found)})
    del sets
    torch.cuda.empty_cache()
    return rows


def main():
    quick = sys.argv[1:] == ["--quick"]
    if sys.argv[1:] and not quick:
        print("usage: rivals.py [--quick]", file=sys.stderr)
        return 2
    try:
        import torch
    except ImportError as error:
        print(f"no PyTorch: {error}", file=sys.stderr)
        return 3
    if not torch.cuda.is_available():
        print("PyTorch sees no CUDA device", file=sys.stderr)
        return 3
    torch.manual_seed(1)
    rows = []
    for storage in ["f16", "int8"]:
        for documents, tokens in SHAPES[:1] if quick else SHAPES:
            rows += measure(torch, storage, documents, tokens, quick)
    print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name(0), "rows": rows}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
