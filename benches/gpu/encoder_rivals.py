"""Times PyTorch on the models and cases of encoder_models.py: `python3 encoder_rivals.py FOLDER FILE` writes JSON, anew
after each model.

What sentence-transformers' CrossEncoder does, without its tokenizer: pairs sorted by length, batches padded to their
longest, a BERT in f16 with scaled_dot_product_attention, logits on the host at the end. Batch sizes of 32 (its default),
128 and 512 are tried; the best counts. With --compile the best is also compiled (torch.compile), where that works and
for as long as there is time.

Also: the largest matrix product's FLOP/s that PyTorch reaches in f16, and logits in f32 of the pairs that encoder_gpu
checks.

Exit codes: 0 measured; 1 failed; 2 wrong usage; 3 no PyTorch or no device.
"""

import json
import pathlib
import statistics
import sys
import time

BATCH_SIZES = [32, 128, 512]
# A case is repeated for about so long for each batch size, and at least twice.
SECONDS_PER_CASE, ROUNDS_MIN, ROUNDS_MAX = 0.3, 2, 50
# Tokens beyond which a padded batch of f16 activations may not fit beside the others.
TOKENS_MAX = 262_144
PEAK_SIZE, PEAK_ROUNDS = 8192, 20
# Compiling is tried on cases of so many pairs, until it has taken so long: minutes would be gone for small ones.
COMPILE_PAIRS_MIN, COMPILE_SECONDS_MAX = 100, 120


def read_safetensors(torch, path):
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    found = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensor = torch.frombuffer(data, dtype=torch.float16, count=(end - begin) // 2, offset=8 + length + begin)
        found[name] = tensor.reshape(entry["shape"]).clone()
    return found


def bert(torch, described, tensors):
    """A BertForSequenceClassification of one label."""
    functional = torch.nn.functional
    hidden, heads = described["hidden"], described["heads"]

    class Bert(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.names = {name: name.replace(".", "_") for name in tensors}
            for name, tensor in tensors.items():
                self.register_buffer(self.names[name], tensor)

        def get(self, name):
            return getattr(self, self.names[name])

        def linear(self, name, x):
            return functional.linear(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"))

        def norm(self, name, x):
            return functional.layer_norm(x, (hidden,), self.get(f"{name}.weight"), self.get(f"{name}.bias"), 1e-12)

        def forward(self, ids, types, mask):
            at = "bert.embeddings"
            positions = torch.arange(ids.shape[1], device=ids.device)
            x = self.get(f"{at}.word_embeddings.weight")[ids]
            x = x + self.get(f"{at}.position_embeddings.weight")[positions]
            x = x + self.get(f"{at}.token_type_embeddings.weight")[types]
            x = self.norm(f"{at}.LayerNorm", x)
            split = lambda y: y.view(y.shape[0], y.shape[1], heads, -1).transpose(1, 2)  # noqa: E731
            for layer in range(described["layers"]):
                at = f"bert.encoder.layer.{layer}"
                q, k, v = (split(self.linear(f"{at}.attention.self.{part}", x)) for part in ["query", "key", "value"])
                y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
                y = y.transpose(1, 2).reshape(x.shape)
                x = self.norm(f"{at}.attention.output.LayerNorm", self.linear(f"{at}.attention.output.dense", y) + x)
                y = functional.gelu(self.linear(f"{at}.intermediate.dense", x))
                x = self.norm(f"{at}.output.LayerNorm", self.linear(f"{at}.output.dense", y) + x)
            pooled = torch.tanh(self.linear("bert.pooler.dense", x[:, 0]))
            return self.linear("classifier", pooled)[:, 0]

    return Bert().eval()


def pairs(lengths):
    """The ids of encoder_gpu."""
    return [
        ([1000 + (131 * number + 31 * position) % 20_000 for position in range(length)], length // 4)
        for number, length in enumerate(lengths)
    ]


def batches(torch, texts, size, dtype):
    """Sorted by length, longest first, padded to the longest of each batch; on the host."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i][0]))
    found = []
    for begin in range(0, len(order), size):
        chosen = order[begin : begin + size]
        longest = len(texts[chosen[0]][0])
        ids, types = torch.zeros(len(chosen), longest, dtype=torch.long), torch.zeros(len(chosen), longest, dtype=torch.long)
        lengths = torch.tensor([len(texts[i][0]) for i in chosen])
        for row, i in enumerate(chosen):
            ids[row, : len(texts[i][0])] = torch.tensor(texts[i][0])
            types[row, texts[i][1] : len(texts[i][0])] = 1
        mask = None
        if not bool((lengths == longest).all()):
            # What SDPA takes for padding: a mask that is added, and broadcast over heads and queries.
            padded = torch.arange(longest)[None, :] >= lengths[:, None]
            mask = torch.zeros(len(chosen), 1, 1, longest, dtype=dtype).masked_fill_(padded[:, None, None, :], float("-inf"))
        found.append((chosen, ids.pin_memory(), types.pin_memory(), None if mask is None else mask.pin_memory()))
    return found


def score(torch, model, made, count):
    """Logits on the host, in the pairs' order."""
    outputs = []
    for chosen, ids, types, mask in made:
        to = lambda tensor: None if tensor is None else tensor.to("cuda", non_blocking=True)  # noqa: E731
        outputs.append((chosen, model(to(ids), to(types), to(mask))))
    found = torch.empty(count)
    for chosen, output in outputs:
        found[chosen] = output.float().cpu()
    return found


def rounds(torch, call):
    call()
    torch.cuda.synchronize()
    found, begin = [], time.perf_counter()
    while len(found) < ROUNDS_MIN or (len(found) < ROUNDS_MAX and time.perf_counter() - begin < SECONDS_PER_CASE):
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return found


def measure(torch, described, folder, compile_until):
    tensors = read_safetensors(torch, folder / described["name"] / "model.safetensors")
    exact = bert(torch, described, {name: tensor.float() for name, tensor in tensors.items()}).cuda()
    texts = pairs(described["check"])
    logits = score(torch, exact, batches(torch, texts, len(texts), torch.float32), len(texts)).tolist()
    del exact
    model = bert(torch, described, tensors).cuda()
    faster = torch.compile(model, dynamic=True)
    rows = []
    for case in described["cases"]:
        texts, best = pairs(case["lengths"]), None
        for size in BATCH_SIZES:
            if best is not None and (size >= 2 * len(texts) or size * max(case["lengths"]) > TOKENS_MAX):
                continue
            made = batches(torch, texts, size, torch.float16)
            seconds = statistics.median(rounds(torch, lambda: score(torch, model, made, len(texts))))
            if best is None or seconds < best["seconds"]:
                best = {"name": case["name"], "rival": f"PyTorch, batches of {size}", "seconds": seconds, "size": size}
        rows.append(best)
        if len(texts) >= COMPILE_PAIRS_MIN and time.perf_counter() < compile_until:
            try:
                made = batches(torch, texts, best["size"], torch.float16)
                seconds = statistics.median(rounds(torch, lambda: score(torch, faster, made, len(texts))))
                rows.append({**best, "rival": f"torch.compile, batches of {best['size']}", "seconds": seconds})
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a rival, it is left out
                print(f"torch.compile is left out: {error}", file=sys.stderr)
                compile_until = 0
        print(f"{described['name']} {case['name']}: {best['seconds'] * 1e3:.3f} ms", file=sys.stderr)
    return {"name": described["name"], "logits": logits, "rows": rows}


def peak(torch):
    """FLOP/s of a large product in f16: the median of rounds, by events."""
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, device="cuda", dtype=torch.float16) for _ in range(2))
    found = []
    for _ in range(PEAK_ROUNDS + 3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        torch.matmul(a, b)
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1e3)
    return 2 * PEAK_SIZE**3 / statistics.median(found[3:])


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--compile"]
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        import torch
    except ImportError as error:
        print(f"no PyTorch: {error}", file=sys.stderr)
        return 3
    if not torch.cuda.is_available():
        print("PyTorch sees no CUDA device", file=sys.stderr)
        return 3
    folder = pathlib.Path(arguments[0])
    plan = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    # The oracle is f32 to the last product.
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.inference_mode():
        found = {"torch": torch.__version__, "device": torch.cuda.get_device_name(0), "peak_flops": peak(torch)}
        compile_until = time.perf_counter() + COMPILE_SECONDS_MAX if "--compile" in sys.argv else 0
        found["models"] = []
        for model in plan["models"]:
            found["models"].append(measure(torch, model, folder, compile_until))
            # Whoever ends this finds what there is.
            written = pathlib.Path(arguments[1] + ".partial")
            written.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            written.replace(arguments[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
