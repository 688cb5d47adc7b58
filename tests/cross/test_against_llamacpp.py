"""Logits and greedy text against llama.cpp, an engine that shares no line with ours.

llama.cpp runs in a process of its own (this file, as a script): a crash of it must not
take the tests along. Its `extra buffer types` are off: the AMX one, compiled by gcc 12,
loads an uninitialised tile configuration and crashes now and then (ggml-org/llama.cpp
issue 20824).
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.engines import oracle
from cotejar.engines.native.engine import NativeEngine
from cotejar.engines.oracle import OracleEngine
from cotejar.model.language_model import open_language_model
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.tokenizer.read_spec import read_tokenizer_spec
from cotejar.tokenizer.tokenizer import Tokenizer
from cotejar.trace.forward_trace import Capture

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.model.language_model import LanguageModel

pytestmark = [
    pytest.mark.cross,
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None,
        reason="llama-cpp-python is not installed",
    ),
]

TEXT = (
    "A copy is checked against its original, side by side. The same model runs through two "
    "programs, and they ought to agree. Where they do not, one operation is wrong first: "
    "every later one inherits its error. Two tests are fair when they measure the same thing."
)
MAX_NMSE = 1e-2
"""Squared error of all logits over their squares; and the same for the mean KL.

Both programs round activations to 8 bits at every product, each in sums of its own order,
so a last bit that differs moves codes, and 30 layers amplify it. llama.cpp against itself,
128 positions of English, this model: NMSE 4.4e-3 and KL 3.3e-3 with flash attention off and
on, 3.7e-3 and 2.5e-3 with AMX and without; float64 against it 1.5e-3 to 4.2e-3. The limit is
twice the largest of those. Measured, 56 positions: q8 8e-4 and 5e-3, the oracle 7e-4 and 4e-3.
So coarse a limit sees a wrong theta (2e-2 and 8e-2) or a window (0.1 and 1), but no eps of
1e-6 for 1e-5: small faults are for the tiny models below, which have no 8-bit noise.
"""
MAX_KL = 1e-2
GREEDY_TOKENS = 20
TIE = 1.0
"""A choice with a smaller lead than this may fall either way: an NMSE of 8e-4 of logits of
rms 9 is an error of 0.26 in each, of 0.36 in a difference, and of 1 three times that."""

Result = dict[str, np.ndarray]


def run_llamacpp(
    model: Path,
    token_ids: list[int],
    folder: Path,
    *,
    greedy: int = 0,
    exact_cache: bool = False,
) -> Result:
    """Logits of every position, and the greedy continuation with each choice's lead."""
    out = folder / "llamacpp.npz"
    request = {
        "model": str(model),
        "token_ids": token_ids,
        "out": str(out),
        "greedy": greedy,
        "exact_cache": exact_cache,
    }
    run = subprocess.run(
        [sys.executable, __file__, json.dumps(request)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, f"llama.cpp ended with {run.returncode}: {run.stderr[-2000:]}"
    with np.load(out) as file:
        return dict(file)


def main(request: dict[str, Any]) -> None:
    """The other process: llama.cpp's C interface, no wrapper that could set extra buffers."""
    import llama_cpp as lib

    lib.llama_backend_init()
    model_params = lib.llama_model_default_params()
    model_params.use_extra_bufts = False
    model_params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(request["model"].encode(), model_params)
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = 2
    params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if request["exact_cache"]:
        params.type_k = params.type_v = lib.GGML_TYPE_F32
    context = lib.llama_init_from_model(model, params)
    vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))

    def decode(token_ids: list[int], start: int) -> np.ndarray:
        batch = lib.llama_batch_init(len(token_ids), 0, 1)
        batch.n_tokens = len(token_ids)
        for index, token in enumerate(token_ids):
            batch.token[index] = token
            batch.pos[index] = start + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = 1
        assert lib.llama_decode(context, batch) == 0
        rows = [
            np.ctypeslib.as_array(
                ctypes.cast(
                    lib.llama_get_logits_ith(context, index), ctypes.POINTER(ctypes.c_float)
                ),
                (vocab_size,),
            ).copy()
            for index in range(len(token_ids))
        ]
        lib.llama_batch_free(batch)
        return np.array(rows)

    token_ids = request["token_ids"]
    logits = decode(token_ids, 0)
    chosen, leads, row = [], [], logits[-1]
    for step in range(request["greedy"]):
        chosen.append(int(row.argmax()))
        second, first = np.sort(row)[-2:]
        leads.append(first - second)
        row = decode(chosen[-1:], len(token_ids) + step)[0]
    np.savez(request["out"], logits=logits, chosen=np.array(chosen, int), leads=np.array(leads))


def logits_of(engine: Any, token_ids: list[int]) -> np.ndarray:
    capture = Capture(array_slots=frozenset({"logits"}))
    return np.asarray(engine.trace(token_ids, capture=capture).arrays["logits"], np.float64)


def nmse(reference: np.ndarray, candidate: np.ndarray) -> float:
    return float(np.sum((candidate - reference) ** 2) / np.sum(reference.astype(float) ** 2))


def mean_kl(reference: np.ndarray, candidate: np.ndarray) -> float:
    log_p, log_q = (
        x
        - x.max(axis=1, keepdims=True)
        - np.log(np.exp(x - x.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
        for x in (reference.astype(np.float64), candidate)
    )
    return float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))


def top1_agreement(reference: np.ndarray, candidate: np.ndarray) -> float:
    return float(np.mean(reference.argmax(axis=1) == candidate.argmax(axis=1)))


def tokenizer_of(model: LanguageModel) -> Tokenizer:
    return Tokenizer(read_tokenizer_spec(model.file.format, model.file.metadata))


@pytest.fixture(scope="module")
def smollm2(
    demo_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LanguageModel, list[int], Result]:
    model = open_language_model(demo_model)
    token_ids = tokenizer_of(model).encode(TEXT)
    result = run_llamacpp(demo_model, token_ids, tmp_path_factory.mktemp("llamacpp"))
    return model, token_ids, result


@pytest.mark.parametrize("name", ["native+q8", "native+f32", "oracle"])
def test_logits_of_every_position_are_llamacpps(
    smollm2: tuple[LanguageModel, list[int], Result],
    name: str,
    record_property: Any,
) -> None:
    model, token_ids, result = smollm2
    engine = (
        OracleEngine(model)
        if name == "oracle"
        else NativeEngine(model, numerics=name.partition("+")[2])
    )

    logits = logits_of(engine, token_ids)

    theirs = result["logits"]
    found = {
        "nmse": nmse(theirs, logits),
        "kl": mean_kl(theirs, logits),
        "top1": top1_agreement(theirs, logits),
    }
    for key, value in found.items():
        record_property(f"{name} {key}", value)
    assert len(token_ids) > 50
    assert found["nmse"] < MAX_NMSE, found
    assert found["kl"] < MAX_KL, found
    # Where it is another token, the two leaders are all but tied.
    other = theirs.argmax(axis=1) != logits.argmax(axis=1)
    assert np.ptp(np.sort(theirs[other])[:, -2:], axis=1).max(initial=0) < TIE, found


def test_a_wrong_operation_is_far_outside(
    smollm2: tuple[LanguageModel, list[int], Result],
) -> None:
    """A theta of 10,000 for 100,000: fluent, and wrong from the second position on."""
    model, token_ids, result = smollm2
    config = replace(model.config, rope=replace(model.config.rope, theta=10_000.0))

    logits = logits_of(NativeEngine(model.altered(config=config), numerics="q8"), token_ids)

    assert nmse(result["logits"], logits) > MAX_NMSE
    assert mean_kl(result["logits"], logits) > 5 * MAX_KL


def test_greedy_text_is_llamacpps(demo_model: Path, tmp_path: Path) -> None:
    model = open_language_model(demo_model)
    prompt = tokenizer_of(model).encode("The capital of France is")
    result = run_llamacpp(demo_model, prompt, tmp_path, greedy=GREEDY_TOKENS)
    session = NativeEngine(model, numerics="q8").start()

    ours, tokens = [], prompt
    for _ in range(GREEDY_TOKENS):
        ours.append(int(session.append(tokens).argmax()))
        tokens = ours[-1:]

    theirs = result["chosen"].tolist()
    differing = [
        i for i, pair in enumerate(zip(ours, theirs, strict=True)) if len(set(pair)) > 1
    ]
    # Past a tie the two texts are two texts; up to it they are one.
    assert not differing or result["leads"][differing[0]] < TIE
    assert " Paris" in tokenizer_of(model).decode(ours[: differing[0] if differing else None])


TINY = {
    "llama": TinyDecoder(),
    "llama, tied": TinyDecoder(tied_embeddings=True),
    "llama, biases": TinyDecoder(attention_bias=True),
    "llama, linear": TinyDecoder(rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "llama, divisors": TinyDecoder(rope_divisors=(1, 1, 1.5, 2, 4, 8, 8, 8)),
    "qwen2": TinyDecoder(architecture="qwen2"),
    "qwen3": TinyDecoder(architecture="qwen3"),
}
GEMMA3 = TinyDecoder(
    architecture="gemma3",
    num_layers=3,
    sliding_window=5,
    sliding_window_pattern=2,
    rope_theta=1e6,
    tied_embeddings=True,
)
GEMMAS = {
    "plain": GEMMA3,
    "linear": replace(GEMMA3, rope_scaling={"rope_type": "linear", "factor": 8.0}),
    "local theta": replace(GEMMA3, rope_local_theta=500.0),
    "a cap": replace(GEMMA3, final_softcap=3.0),
    "every sixth": replace(GEMMA3, num_layers=7, sliding_window_pattern=6),
    "no window": replace(GEMMA3, sliding_window=None),
    "untied": replace(GEMMA3, tied_embeddings=False),
}
TINY_IDS = [5, 77, 300, 12, 9, 9, 250, 31, 4, 199, 2, 64]
MAX_TINY_NMSE = 1e-10
"""float32 sums of at most 160 terms in 2 layers: an error of 1e-5, squared. Measured: 2e-13."""


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_model_in_float32_is_read_as_llamacpp_reads_it(
    name: str, tmp_path: Path
) -> None:
    """Row order of q and k, divisors, biases, head norms: all of it, without 8-bit noise."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", TINY[name])

    theirs = run_llamacpp(path, TINY_IDS, tmp_path, exact_cache=True)["logits"]
    ours = logits_of(OracleEngine(open_language_model(path)), TINY_IDS)

    assert nmse(theirs, ours) < MAX_TINY_NMSE


MAX_FLIPPED_NMSE = 5e-9
"""As before, but what passes ggml's table of float16 may round the other way: values that
differ by 3e-7 of themselves straddle a boundary, 7e-4 apart on average, 4 times in 10,000, and
part by those 7e-4. In and out, 2 x 4e-4 x (7e-4)^2 = 4e-10 a layer; 7 layers are the most.
Measured: 2.7e-9 there, 9e-10 with 3 layers."""


def from_ggmls_table(gate_TF: np.ndarray, _: object) -> np.ndarray:
    """GELU as ggml looks it up: of a float16, as a float16; 0 and x beyond 10."""
    rounded = gate_TF.astype(np.float16).astype(np.float64)
    inner = np.sqrt(2 / np.pi) * (rounded + 0.044715 * rounded**3)
    looked_up = (0.5 * rounded * (1 + np.tanh(inner))).astype(np.float16)
    return np.where(np.abs(gate_TF) < 10, looked_up, np.maximum(gate_TF, 0))


def gemma_distance(theirs: Path, ours: Path, folder: Path) -> float:
    """Between llama.cpp on one file, and the oracle, with ggml's table, on another."""
    logits = run_llamacpp(theirs, TINY_IDS, folder, exact_cache=True)["logits"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "activate", from_ggmls_table)
        return nmse(logits, logits_of(OracleEngine(open_language_model(ours)), TINY_IDS))


@pytest.mark.parametrize("name", GEMMAS)
def test_a_tiny_gemma3_is_read_as_llamacpp_reads_it(name: str, tmp_path: Path) -> None:
    """Norms behind, both RoPEs, the pattern of windows, the scale, the cap: all but GELU."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", GEMMAS[name])

    assert gemma_distance(path, path, tmp_path) < MAX_FLIPPED_NMSE


MAX_TABLE_NMSE = 1e-6
"""float16 has 11 bits: each value that passes ggml's table, in and out, is off by up to 2^-11
of itself, 2.4e-7 squared, and there are 3 layers. Measured: 1e-8. A window of 6 for 5: 1e-2."""


def test_without_ggmls_table_gemma3_is_off_by_that_table_alone(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", GEMMA3)
    theirs = run_llamacpp(path, TINY_IDS, tmp_path, exact_cache=True)["logits"]
    model = open_language_model(path)

    for engine in (OracleEngine(model), NativeEngine(model, numerics="f32")):
        assert MAX_TINY_NMSE < nmse(theirs, logits_of(engine, TINY_IDS)) < MAX_TABLE_NMSE


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 1.1e6},
        {"rope_local_theta": 10_200.0},
        {"sliding_window": 6},
        {"sliding_window_pattern": 3},
        {"rms_eps": 2.0**-8},
        {"final_softcap": 1000.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_tiny_gemma3_that_differs_a_little_is_seen(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", replace(GEMMA3, **changes))
    plain = write_tiny_gguf(tmp_path / "plain.gguf", GEMMA3)

    assert gemma_distance(other, plain, tmp_path) > MAX_FLIPPED_NMSE


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 10_100.0},
        {"rms_eps": 2.0**-10 * 1.01},
        {"rope_divisors": (1,) * 7 + (2,)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_tiny_model_that_differs_a_little_is_seen(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """What llama.cpp runs differs by 1 % of theta or eps, or in one slow pair."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", replace(TinyDecoder(), **changes))
    plain = write_tiny_gguf(tmp_path / "plain.gguf", TinyDecoder())

    theirs = run_llamacpp(path, TINY_IDS, tmp_path, exact_cache=True)["logits"]
    ours = logits_of(OracleEngine(open_language_model(plain)), TINY_IDS)

    assert nmse(theirs, ours) > MAX_TINY_NMSE


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
