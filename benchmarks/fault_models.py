"""The models that `faults.py` puts faults into, and what it runs on them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf, write_tiny_hugging_face

QWEN = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"
PROMPT = "The capital of France is a city known for its river. Q: 12345 * 6789 = ?"
OTHER_PROMPTS = (
    "What is 2+2?",
    "def fib(n):\n    if n < 2:\n        return n\n",
    "北京是中华人民共和国的首都。",
)
TINY_IDS = (0, 141, 59, 26, 53, 7, 260, 3, 99, 17)
LINEAR = {"rope_type": "linear", "factor": 4.0}
WIDE = {"hidden_size": 256, "num_heads": 8, "ffn_size": 512}

TINY = {
    "llama": TinyDecoder(num_layers=3, block_type=BlockType.Q4_1),
    "mistral": TinyDecoder(num_layers=3, architecture="mistral", sliding_window=4),
    "qwen2": TinyDecoder(num_layers=3, architecture="qwen2", tied_embeddings=True),
    "qwen3": TinyDecoder(num_layers=3, architecture="qwen3", rope_scaling=LINEAR),
    "gemma3": TinyDecoder(
        num_layers=3, architecture="gemma3", sliding_window=3, rope_theta=1e6
    ),
    "biased": TinyDecoder(num_layers=3, attention_bias=True, mlp_bias=True),
    "Q4_K": TinyDecoder(**WIDE, num_layers=3, block_type=BlockType.Q4_K),
}
"""Every architecture, and what none of them has: biases everywhere, and K-quants."""


@dataclass(frozen=True, kw_only=True)
class BenchModel:
    """One model under test."""

    name: str
    path: str
    num_layers: int
    token_ids: tuple[int, ...] = ()
    """Empty: the prompts."""
    llamacpp_runs_it: bool = True
    """Not what has a window under the architecture `llama`, which llama.cpp does not read."""
    hugging_face: str | None = None
    """A folder of the same weights, if they are floats; else transformers take the GGUF."""


def find_models(wanted: tuple[str, ...], folder: Path) -> list[BenchModel]:
    """Those that were asked for; tiny ones are written into `folder`.

    `smollm2` is `demo:smollm2`; `qwen` is there where COTEJAR_MODELS names its folder.
    """
    models = [_tiny(name, folder) for name in TINY if not wanted or f"tiny-{name}" in wanted]
    if not wanted or "smollm2" in wanted:
        models.append(BenchModel(name="smollm2", path="demo:smollm2", num_layers=30))
    qwen = Path(os.environ.get("COTEJAR_MODELS", "")) / QWEN
    if "qwen" in wanted and not qwen.is_file():
        raise SystemExit(f"COTEJAR_MODELS names no folder that holds {QWEN}")
    if qwen.is_file() and (not wanted or "qwen" in wanted):
        models.append(BenchModel(name="qwen", path=str(qwen), num_layers=24))
    unknown = set(wanted) - {model.name for model in models}
    if unknown:
        known = ", ".join([*(f"tiny-{name}" for name in TINY), "smollm2", "qwen"])
        raise SystemExit(f"no model {', '.join(sorted(unknown))}; there are: {known}")
    return models


def _tiny(name: str, folder: Path) -> BenchModel:
    decoder = TINY[name]
    path = folder / f"{name}.gguf"
    hugging_face = folder / name if decoder.block_type is BlockType.F32 else None
    if not path.exists():
        write_tiny_gguf(path, decoder)
        if hugging_face:
            write_tiny_hugging_face(hugging_face, decoder)
    return BenchModel(
        name=f"tiny-{name}",
        path=str(path),
        num_layers=decoder.num_layers,
        token_ids=TINY_IDS,
        llamacpp_runs_it=decoder.architecture != "mistral",
        hugging_face=hugging_face and str(hugging_face),
    )
