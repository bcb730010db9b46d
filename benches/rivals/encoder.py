"""ONNX Runtime as a reranker: the rival of `bench encoder`.

    python encoder.py FOLDER SCRATCH THREADS

Speaks JSON, a line each way. First it says what it is:

    {"onnxruntime": "1.31.1", "operators": {"f32": {"Attention": 6, …}, …}}

Then it answers each request `{"precision", "method", "query", "documents", "max_tokens", "batch"}` (precision f32 or
int8; method dense, late_interaction or cross_encoder) with `{"scores", "tokens", "padded_tokens", "tokenize_seconds",
"encode_seconds"}`, scores in the order of the documents, times without the pipe. `tokens` counts every sequence that
was computed, the query's too. It ends with its standard input.
"""

import json
import logging
import pathlib
import sys
import time

import numpy as np
import onnxruntime
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer

import export_onnx


class Reranker:
    """The graphs of one precision."""

    def __init__(self, graphs, folder, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self.sessions = {
            name: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for name, path in graphs.items()
        }
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()

    def rerank(self, request):
        cross_encoder = request["method"] == "cross_encoder"
        started = time.perf_counter()
        query, documents = self.tokenize(request, cross_encoder)
        tokenized = time.perf_counter()
        counts = Counts()
        if cross_encoder:
            score = None
        else:
            (hidden,) = self.run("encoder", [query], counts)
            score = SCORES[request["method"]](hidden[0], len(query))
        scores = np.empty(len(documents), np.float32)
        for members in batches(documents, request["batch"]):
            sequences = [documents[member] for member in members]
            (output,) = self.run("cross" if cross_encoder else "encoder", sequences, counts)
            scores[members] = output[:, 0] if cross_encoder else score(output, [len(s) for s in sequences])
        finished = time.perf_counter()
        return {
            "scores": [float(score) for score in scores],
            "tokens": counts.tokens,
            "padded_tokens": counts.padded_tokens,
            "tokenize_seconds": tokenized - started,
            "encode_seconds": finished - tokenized,
        }

    def tokenize(self, request, cross_encoder):
        """The query's sequence and the documents', or `None` and the pairs'."""
        strategy = "only_second" if cross_encoder else "longest_first"
        self.tokenizer.enable_truncation(request["max_tokens"], strategy=strategy)
        query, documents = request["query"], request["documents"]
        if cross_encoder:
            return None, self.tokenizer.encode_batch_fast([(query, document) for document in documents])
        query, *documents = self.tokenizer.encode_batch_fast([query, *documents])
        return query, documents

    def run(self, graph, sequences, counts):
        """Pads to the longest sequence."""
        shape = (len(sequences), max(len(sequence) for sequence in sequences))
        inputs = {name: np.zeros(shape, np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
        for row, sequence in enumerate(sequences):
            length = len(sequence)
            inputs["input_ids"][row, :length] = sequence.ids
            inputs["attention_mask"][row, :length] = 1
            inputs["token_type_ids"][row, :length] = sequence.type_ids
            counts.tokens += length
        counts.padded_tokens += shape[0] * shape[1]
        return self.sessions[graph].run(None, inputs)


class Counts:
    """Tokens that were asked for, and those that were computed."""

    def __init__(self):
        self.tokens = 0
        self.padded_tokens = 0


def batches(sequences, size):
    """Documents of about one length together, the longest first, so that memory is asked for once."""
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def mask_of(lengths, width):
    return np.arange(width)[None, :] < np.array(lengths)[:, None]


def dense(query, query_length):
    """Cosine of the mean token vectors."""

    def pooled(hidden, lengths):
        means = (mask_of(lengths, hidden.shape[1])[:, None, :].astype(np.float32) @ hidden)[:, 0]
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    (query,) = pooled(query[None], [query_length])
    return lambda hidden, lengths: pooled(hidden, lengths) @ query


def late_interaction(query, query_length):
    """Sum over the query's tokens of the largest cosine with a token of the document."""
    query = query[:query_length]
    query = query / np.linalg.norm(query, axis=1, keepdims=True)

    def maxsim(hidden, lengths):
        similarities = (hidden @ query.T) / np.linalg.norm(hidden, axis=2, keepdims=True)
        similarities[~mask_of(lengths, hidden.shape[1])] = -np.inf
        return similarities.max(axis=1).sum(axis=1)

    return maxsim


SCORES = {"dense": dense, "late_interaction": late_interaction}


def quantized(graphs, scratch):
    """Dynamic int8 of the fused graphs: weights per column, activations per tensor, attention included."""
    paths = {}
    for name, path in graphs.items():
        export_onnx.optimized_operators(path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
        paths[name] = scratch / f"{name}.int8.onnx"
        quantize_dynamic(
            path.with_suffix(".optimized.onnx"),
            paths[name],
            op_types_to_quantize=["Attention", "MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            # ONNX itself infers no types behind ONNX Runtime's own operators.
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )
    return paths


def main(folder, scratch, threads):
    folder, scratch = pathlib.Path(folder), pathlib.Path(scratch)
    # The quantizer advises to optimise the graph first, which is what was done.
    logging.disable(logging.WARNING)
    graphs = {"f32": export_onnx.export(folder, scratch)}
    graphs["int8"] = quantized(graphs["f32"], scratch)
    operators = {precision: export_onnx.optimized_operators(paths["encoder"]) for precision, paths in graphs.items()}
    rerankers = {precision: Reranker(paths, folder, int(threads)) for precision, paths in graphs.items()}
    answer({"onnxruntime": onnxruntime.__version__, "operators": operators})
    for line in sys.stdin:
        request = json.loads(line)
        answer(rerankers[request["precision"]].rerank(request))


def answer(value):
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
