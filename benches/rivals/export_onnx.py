"""A BERT model folder as an ONNX graph, built node by node from its safetensors.

The graph is written in the operators and in the shape that ONNX Runtime's own graph optimisations look for, so that
they fuse it into `Attention`, `SkipLayerNormalization` and `BiasGelu` (erf, exact).
`python export_onnx.py FOLDER OUT` writes the graphs and prints what became of their nodes.

Inputs, int64, [batch, sequence]: input_ids, attention_mask (1 = token, 0 = padding), token_type_ids.
Output of an encoder: last_hidden_state [batch, sequence, hidden]; of a cross-encoder: logits [batch, 1].
"""

import collections
import json
import math
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

# The last one that ONNX Runtime 1.31's attention fusion knows all operators of: with 13 the attention stays in parts.
OPSET = 12


class Graph:
    """Nodes and constants so far; every node gives one output, named after it."""

    def __init__(self):
        self.nodes = []
        self.initializers = []
        self.names = set()

    def constant(self, name, value):
        if name not in self.names:
            self.names.add(name)
            self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op, inputs, name, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def integers(self, values):
        return self.constant("i_" + "_".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, value):
        return self.constant(f"f_{value}", np.array(value, np.float32))


class Bert:
    """The weights of a BERT, with or without the `bert.` that heads put before its names."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        assert self.config.get("hidden_act", "gelu") == "gelu", "only the exact GELU is built"
        self.weights = load_file(folder / "model.safetensors")
        self.prefix = "bert." if "bert.embeddings.word_embeddings.weight" in self.weights else ""

    def weight(self, name):
        return self.weights[self.prefix + name].astype(np.float32)

    def head(self, name):
        return self.weights[name].astype(np.float32)


def build(bert, cross_encoder):
    """The graph of the encoder, or of encoder, pooler and classification head."""
    graph = Graph()
    hidden = embeddings(graph, bert)
    mask = attention_bias(graph)
    for layer in range(bert.config["num_hidden_layers"]):
        hidden = encoder_layer(graph, bert, layer, hidden, mask)
    if cross_encoder:
        output = classification(graph, bert, hidden)
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 1])]
    else:
        output = graph.node("Identity", [hidden], "last_hidden_state")
        shape = ["batch", "sequence", bert.config["hidden_size"]]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    body = helper.make_graph(graph.nodes, "bert", inputs, outputs, graph.initializers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def embeddings(graph, bert):
    def table(name):
        return graph.constant(name, bert.weight(f"embeddings.{name}.weight"))

    words = graph.node("Gather", [table("word_embeddings"), "input_ids"], "words")
    types = graph.node("Gather", [table("token_type_embeddings"), "token_type_ids"], "types")
    # Counted from the mask, which keeps the shape [batch, sequence] known to every later node: fusions ask for it.
    counted = graph.node("CumSum", ["attention_mask", graph.constant("one", np.array(1, np.int64))], "counted")
    ids = graph.node("Sub", [counted, graph.constant("one", np.array(1, np.int64))], "position_ids")
    positions = graph.node("Gather", [table("position_embeddings"), ids], "position")
    total = graph.node("Add", [words, types], "words_types")
    total = graph.node("Add", [total, positions], "words_types_positions")
    return layer_norm(graph, bert, total, "embeddings.LayerNorm")


def attention_bias(graph):
    """0 where a token is, a large negative number where padding is: [batch, 1, 1, sequence]."""
    mask = graph.node("Unsqueeze", ["attention_mask"], "mask_1", axes=[1])
    mask = graph.node("Unsqueeze", [mask], "mask_2", axes=[2])
    mask = graph.node("Cast", [mask], "mask_float", to=TensorProto.FLOAT)
    mask = graph.node("Sub", [graph.scalar(1.0), mask], "mask_absent")
    return graph.node("Mul", [mask, graph.scalar(-10000.0)], "mask_bias")


def encoder_layer(graph, bert, layer, hidden, mask):
    name = f"encoder.layer.{layer}"
    heads = bert.config["num_attention_heads"]
    size = bert.config["hidden_size"] // heads

    def split(part, permutation):
        x = linear(graph, bert, hidden, f"{name}.attention.self.{part}")
        x = graph.node("Reshape", [x, graph.integers([0, 0, heads, size])], f"{name}.{part}.split")
        return graph.node("Transpose", [x], f"{name}.{part}.heads", perm=permutation)

    query = split("query", [0, 2, 1, 3])
    key = split("key", [0, 2, 3, 1])
    value = split("value", [0, 2, 1, 3])
    scores = graph.node("MatMul", [query, key], f"{name}.scores")
    scores = graph.node("Div", [scores, graph.scalar(math.sqrt(size))], f"{name}.scaled")
    scores = graph.node("Add", [scores, mask], f"{name}.masked")
    shares = graph.node("Softmax", [scores], f"{name}.shares", axis=3)
    context = graph.node("MatMul", [shares, value], f"{name}.context")
    context = graph.node("Transpose", [context], f"{name}.context.rows", perm=[0, 2, 1, 3])
    context = graph.node("Reshape", [context, graph.integers([0, 0, heads * size])], f"{name}.context.merged")
    attended = linear(graph, bert, context, f"{name}.attention.output.dense")
    attended = graph.node("Add", [attended, hidden], f"{name}.attention.residual")
    attended = layer_norm(graph, bert, attended, f"{name}.attention.output.LayerNorm")
    inner = gelu(graph, linear(graph, bert, attended, f"{name}.intermediate.dense"), f"{name}.gelu")
    outer = linear(graph, bert, inner, f"{name}.output.dense")
    outer = graph.node("Add", [outer, attended], f"{name}.output.residual")
    return layer_norm(graph, bert, outer, f"{name}.output.LayerNorm")


def linear(graph, bert, x, name):
    weight = graph.constant(f"{name}.weight", bert.weight(f"{name}.weight").T)
    bias = graph.constant(f"{name}.bias", bert.weight(f"{name}.bias"))
    return graph.node("Add", [graph.node("MatMul", [x, weight], f"{name}.product"), bias], f"{name}.sum")


def gelu(graph, x, name):
    erf = graph.node("Div", [x, graph.scalar(math.sqrt(2.0))], f"{name}.scaled")
    erf = graph.node("Erf", [erf], f"{name}.erf")
    erf = graph.node("Add", [erf, graph.scalar(1.0)], f"{name}.shifted")
    product = graph.node("Mul", [x, erf], f"{name}.product")
    return graph.node("Mul", [product, graph.scalar(0.5)], f"{name}.half")


def layer_norm(graph, bert, x, name):
    scale = graph.constant(f"{name}.weight", bert.weight(f"{name}.weight"))
    bias = graph.constant(f"{name}.bias", bert.weight(f"{name}.bias"))
    epsilon = graph.scalar(bert.config.get("layer_norm_eps", 1e-12))
    mean = graph.node("ReduceMean", [x], f"{name}.mean", axes=[-1])
    centered = graph.node("Sub", [x, mean], f"{name}.centered")
    square = graph.node("Pow", [centered, graph.scalar(2.0)], f"{name}.square")
    variance = graph.node("ReduceMean", [square], f"{name}.variance", axes=[-1])
    deviation = graph.node("Sqrt", [graph.node("Add", [variance, epsilon], f"{name}.positive")], f"{name}.deviation")
    normalized = graph.node("Div", [centered, deviation], f"{name}.normalized")
    scaled = graph.node("Mul", [normalized, scale], f"{name}.scaled")
    return graph.node("Add", [scaled, bias], f"{name}.shifted")


def classification(graph, bert, hidden):
    """w · tanh(pooler(h_CLS)) + b"""
    first = graph.node("Gather", [hidden, graph.constant("zero", np.array(0, np.int64))], "first", axis=1)
    pooled = graph.node("Tanh", [linear(graph, bert, first, "pooler.dense")], "pooled")
    weight = graph.constant("classifier.weight", bert.head("classifier.weight").T)
    bias = graph.constant("classifier.bias", bert.head("classifier.bias"))
    return graph.node("Add", [graph.node("MatMul", [pooled, weight], "classifier.product"), bias], "logits")


def export(folder, out):
    """Writes encoder.onnx, and cross.onnx where the folder has a classification head; returns their paths by name."""
    bert = Bert(pathlib.Path(folder))
    out = pathlib.Path(out)
    paths = {"encoder": out / "encoder.onnx"}
    if "classifier.weight" in bert.weights:
        paths["cross"] = out / "cross.onnx"
    for name, path in paths.items():
        onnx.save(build(bert, name == "cross"), path)
    return paths


def optimized_operators(path, level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL):
    """How many nodes of each operator ONNX Runtime makes of this graph; the graph itself goes beside it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    return dict(collections.Counter(node.op_type for node in nodes).most_common())


if __name__ == "__main__":
    for graph_name, graph_path in export(sys.argv[1], sys.argv[2]).items():
        print(graph_name, optimized_operators(graph_path))
