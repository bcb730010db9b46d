"""Writes seeded models and cases for encoder_gpu and encoder_rivals.py: `python3 encoder_models.py FOLDER [--quick]`.

Models have the shapes of well-known ones and random weights (f16): speed does not depend on what they were trained to
do. Vocabularies are BERT's for all: the size of a table that is looked up does not matter either. PyTorch draws the
numbers; the safetensors format is written by hand, since a GPU machine may have no package for it.

Exit codes: 0 written; 2 wrong usage; 3 no PyTorch.
"""

import ctypes
import json
import math
import pathlib
import sys

VOCABULARY, POSITIONS = 30522, 512
# hidden, layers, heads, intermediate
SHAPES = {
    "MiniLM-L6": (384, 6, 12, 1536),
    "BERT-base": (768, 12, 12, 3072),
    "XLM-R-large": (1024, 24, 16, 4096),
}
COUNTS, LENGTHS = [1, 10, 100, 1000], [64, 128, 256, 512]
# Of a query and a passage of a web collection: median and spread of the logarithm, cut at what models take.
NATURAL_MEDIAN, NATURAL_SIGMA, NATURAL_MIN = 90, 0.5, 16


def natural(count):
    """Quantiles of a log-normal distribution, in an order that mixes long and short ones."""
    from statistics import NormalDist

    normal = NormalDist()
    quantiles = [(7919 * i % count + 0.5) / count for i in range(count)]
    lengths = [round(NATURAL_MEDIAN * math.exp(NATURAL_SIGMA * normal.inv_cdf(q))) for q in quantiles]
    return [max(NATURAL_MIN, min(POSITIONS, length)) for length in lengths]


def cases(quick):
    if quick:
        return [{"name": "10x128", "lengths": [128] * 10}, {"name": "10xnatural", "lengths": natural(10)}]
    fixed = [{"name": f"{count}x{length}", "lengths": [length] * count} for count in COUNTS for length in LENGTHS]
    return fixed + [{"name": f"{count}xnatural", "lengths": natural(count)} for count in COUNTS]


def tensors(torch, shape):
    """Names and values of a BertForSequenceClassification of one label."""
    hidden, layers, _, inner = shape
    generator = torch.Generator().manual_seed(1)

    def normal(*size, spread):
        return (torch.randn(*size, generator=generator) * spread).half()

    def norm(name):
        yield f"{name}.weight", (1 + 0.1 * torch.randn(hidden, generator=generator)).half()
        yield f"{name}.bias", normal(hidden, spread=0.1)

    def linear(name, outputs, inputs):
        yield f"{name}.weight", normal(outputs, inputs, spread=0.8 / math.sqrt(inputs))
        yield f"{name}.bias", normal(outputs, spread=0.05)

    for name, rows in [("word", VOCABULARY), ("position", POSITIONS), ("token_type", 2)]:
        yield f"bert.embeddings.{name}_embeddings.weight", normal(rows, hidden, spread=0.5)
    yield from norm("bert.embeddings.LayerNorm")
    for layer in range(layers):
        at = f"bert.encoder.layer.{layer}"
        for part in ["query", "key", "value"]:
            yield from linear(f"{at}.attention.self.{part}", hidden, hidden)
        yield from linear(f"{at}.attention.output.dense", hidden, hidden)
        yield from norm(f"{at}.attention.output.LayerNorm")
        yield from linear(f"{at}.intermediate.dense", inner, hidden)
        yield from linear(f"{at}.output.dense", hidden, inner)
        yield from norm(f"{at}.output.LayerNorm")
    yield from linear("bert.pooler.dense", hidden, hidden)
    yield "classifier.weight", normal(1, hidden, spread=0.8 / math.sqrt(hidden))
    yield "classifier.bias", normal(1, spread=0.05)


def write_safetensors(path, named):
    """A header in JSON, then the tensors end to end."""
    named = list(named)
    header, at = {}, 0
    for name, tensor in named:
        size = tensor.numel() * 2
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in named:
            tensor = tensor.contiguous()
            file.write((ctypes.c_char * (tensor.numel() * 2)).from_address(tensor.data_ptr()))


def tokenizer():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    template = lambda *pieces: [{"SpecialToken": {"id": p, "type_id": t}} if p in special else {"Sequence": {"id": p, "type_id": t}} for p, t in pieces]  # noqa: E731
    single = template(("[CLS]", 0), ("A", 0), ("[SEP]", 0))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            for i, token in enumerate(special)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": single + template(("B", 1), ("[SEP]", 1)),
            "special_tokens": {t: {"id": t, "ids": [special.index(t)], "tokens": [t]} for t in ["[CLS]", "[SEP]"]},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {token: i for i, token in enumerate(special)}, "unk_token": "[UNK]"},
    }


def write_model(torch, folder, shape):
    hidden, layers, heads, inner = shape
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "vocab_size": VOCABULARY,
        "layer_norm_eps": 1e-12,
        "id2label": {"0": "LABEL_0"},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", tensors(torch, shape))


def main():
    arguments = sys.argv[1:]
    quick = "--quick" in arguments
    paths = [argument for argument in arguments if argument != "--quick"]
    if len(paths) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        import torch
    except ImportError as error:
        print(f"no PyTorch: {error}", file=sys.stderr)
        return 3
    folder = pathlib.Path(paths[0])
    models = []
    for name, shape in SHAPES.items():
        if quick and name != "MiniLM-L6":
            continue
        write_model(torch, folder / name, shape)
        hidden, layers, heads, inner = shape
        described = {"name": name, "hidden": hidden, "layers": layers, "heads": heads, "intermediate": inner}
        models.append({**described, "check": [1, 512, 64, 65, 7, 128, 200, 33], "cases": cases(quick)})
    (folder / "cases.json").write_text(json.dumps({"models": models}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
