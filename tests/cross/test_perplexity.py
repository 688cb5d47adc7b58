"""Perplexity against llama.cpp's arithmetic, cut and judged as its perplexity tool does it.

llama.cpp runs in a process of its own (this file, as a script), its extra buffers off.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotejar.evaluation.perplexity import measure_perplexity
from cotejar.evaluation.text_chunks import read_chunks
from cotejar.model.language_model import open_language_model

pytestmark = [
    pytest.mark.cross,
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None,
        reason="llama-cpp-python is not installed",
    ),
]
CHUNK = 128
TEXT = Path(__file__).parents[2] / "README.md"


def test_it_is_llamacpps_within_the_error_of_their_difference(
    demo_model: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(TEXT.read_bytes()[:3500])
    request = {"model": str(demo_model), "text": str(text), "out": str(tmp_path / "nll.npy")}
    run = subprocess.run(
        [sys.executable, __file__, json.dumps(request)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    theirs = np.load(request["out"])

    ours = measure_perplexity(str(demo_model), text, chunk_tokens=CHUNK)

    chunks = read_chunks(text, open_language_model(demo_model), chunk_tokens=CHUNK)
    assert len(chunks.token_ids) >= 5
    assert ours.num_judged == theirs.size == len(chunks.token_ids) * (CHUNK - CHUNK // 2 - 1)
    # Their distributions lie a KL of 5e-3 apart (test_against_llamacpp), so one token's log p
    # differs by about sqrt(2 * 5e-3) = 0.1; of the mean of n that leaves 0.1 / sqrt(n), and
    # three times that is asked for. A chunk cut one token late moves it by more.
    assert abs(ours.mean_nll - theirs.mean()) <= 3 * 0.1 / math.sqrt(theirs.size)
    assert ours.standard_error_nll == pytest.approx(
        theirs.std(ddof=1) / math.sqrt(theirs.size), rel=0.1
    )


def main(request: dict[str, Any]) -> None:
    """The other process: tokens, chunks, logits and sums by llama.cpp and this file alone."""
    import llama_cpp as lib

    lib.llama_backend_init()
    model_params = lib.llama_model_default_params()
    model_params.use_extra_bufts = False
    model_params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(request["model"].encode(), model_params)
    vocab = lib.llama_model_get_vocab(model)
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = 1
    context = lib.llama_init_from_model(model, params)
    raw = Path(request["text"]).read_bytes()
    tokens = (ctypes.c_int32 * (len(raw) + 8))()
    count = lib.llama_tokenize(vocab, raw, len(raw), tokens, len(tokens), True, False)
    size, found = lib.llama_vocab_n_tokens(vocab), []
    for start in range(0, count - CHUNK + 1, CHUNK):
        chunk = list(tokens[start : start + CHUNK])
        if lib.llama_vocab_get_add_bos(vocab):
            chunk[0] = lib.llama_vocab_bos(vocab)
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        batch = lib.llama_batch_init(CHUNK, 0, 1)
        batch.n_tokens = CHUNK
        for index, token in enumerate(chunk):
            batch.token[index], batch.pos[index] = token, index
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
            batch.logits[index] = index >= CHUNK // 2
        assert lib.llama_decode(context, batch) == 0
        for index in range(CHUNK // 2, CHUNK - 1):
            pointer = ctypes.cast(
                lib.llama_get_logits_ith(context, index), ctypes.POINTER(ctypes.c_float)
            )
            row = np.ctypeslib.as_array(pointer, (size,)).astype(np.float64)
            found.append(
                np.log(np.exp(row - row.max()).sum()) + row.max() - row[chunk[index + 1]]
            )
        lib.llama_batch_free(batch)
    np.save(request["out"], np.array(found))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
