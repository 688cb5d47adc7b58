"""llama.cpp's side of a perplexity: its tokens, chunks, logits and sums, by none of our code.

    python benchmarks/llamacpp_perplexity.py '{"model": "m.gguf", "text": "t.txt",
        "chunk_tokens": 512, "threads": 1, "out": "nll.npy"}'

Cut and judged as llama.cpp's perplexity tool does it: the second half of every chunk counts.
`out` becomes the negative log-likelihood of each judged token, float64. A process of its own,
so that a crash of llama.cpp's takes nothing along; its extra buffers are off.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(request: dict[str, Any]) -> None:
    import llama_cpp as lib

    size = request["chunk_tokens"]
    lib.llama_backend_init()
    model_params = lib.llama_model_default_params()
    model_params.use_extra_bufts = False
    model_params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(request["model"].encode(), model_params)
    vocab = lib.llama_model_get_vocab(model)
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = max(512, size)
    params.n_threads = params.n_threads_batch = request["threads"]
    context = lib.llama_init_from_model(model, params)
    raw = Path(request["text"]).read_bytes()
    tokens = (ctypes.c_int32 * (len(raw) + 8))()
    add_special, parse_special = True, False
    count = lib.llama_tokenize(
        vocab, raw, len(raw), tokens, len(tokens), add_special, parse_special
    )
    found: list[float] = []
    for start in range(0, count - size + 1, size):
        chunk = list(tokens[start : start + size])
        if lib.llama_vocab_get_add_bos(vocab):
            chunk[0] = lib.llama_vocab_bos(vocab)
        found += run_chunk(lib, context, chunk, lib.llama_vocab_n_tokens(vocab))
    np.save(request["out"], np.array(found))


def run_chunk(lib: Any, context: Any, chunk: list[int], vocab_size: int) -> list[float]:
    """Negative log-likelihoods of the second half of one chunk."""
    half, found = len(chunk) // 2, []
    lib.llama_memory_clear(lib.llama_get_memory(context), 1)
    batch = lib.llama_batch_init(len(chunk), 0, 1)
    batch.n_tokens = len(chunk)
    for index, token in enumerate(chunk):
        batch.token[index], batch.pos[index] = token, index
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
        batch.logits[index] = index >= half
    if lib.llama_decode(context, batch) != 0:
        sys.exit("llama_decode failed")
    for index in range(half, len(chunk) - 1):
        floats = ctypes.POINTER(ctypes.c_float)
        pointer = ctypes.cast(lib.llama_get_logits_ith(context, index), floats)
        row_V = np.ctypeslib.as_array(pointer, (vocab_size,)).astype(np.float64)
        top = row_V.max()
        found.append(float(np.log(np.exp(row_V - top).sum()) + top - row_V[chunk[index + 1]]))
    lib.llama_batch_free(batch)
    return found


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
