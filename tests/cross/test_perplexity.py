"""Perplexity against llama.cpp's arithmetic, cut and judged as its perplexity tool does it.

llama.cpp runs in a process of its own, `benchmarks/llamacpp_perplexity.py`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

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
ROOT = Path(__file__).parents[2]
TEXT, SCRIPT = ROOT / "README.md", ROOT / "benchmarks" / "llamacpp_perplexity.py"


def test_it_is_llamacpps_within_the_error_of_their_difference(
    demo_model: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(TEXT.read_bytes()[:3500])
    request = {
        "model": str(demo_model),
        "text": str(text),
        "chunk_tokens": CHUNK,
        "threads": 1,
        "out": str(tmp_path / "nll.npy"),
    }
    run = subprocess.run(
        [sys.executable, SCRIPT, json.dumps(request)],
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
