"""The noise of other people's engines, and gates that come from it."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from cotejar.parity.compare import Plan
from cotejar.parity.noise_measure import NoiseRequest, measure_noise
from cotejar.parity.run import Request, run_parity
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.trace.forward_trace import Scope
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.cross,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("llama_cpp", "torch", "transformers"))),
        reason="llama-cpp-python or transformers is not installed",
    ),
]


def test_each_engines_noise_is_its_arithmetics(tmp_path: Path) -> None:
    """bfloat16 has 8 bits: a value is rounded by up to 2^-9, a sum of layers by some 2^-7."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf", TinyDecoder())
    engines = ("native+f32", "llamacpp+q8-kvf16", "transformers+bf16")

    profile = measure_noise(
        NoiseRequest(model=str(model), engines=engines, prompts=("hello", "the end of it all"))
    )

    noise = {side.name: side.sites for side in profile.engines}
    logits = {
        name: sites["logits"][Scope.ALL]["rel_l2_max"].value for name, sites in noise.items()
    }
    assert tuple(noise) == engines
    assert logits["native+f32"] < 1e-5 < logits["llamacpp+q8-kvf16"] < 2.0**-9
    assert 2.0**-9 < logits["transformers+bf16"] < 2.0**-4
    unseen = set(noise["native+f32"]) - set(noise["llamacpp+q8-kvf16"])
    assert unseen == {"layer.0.ffn_silu_gate", "layer.1.ffn_silu_gate"}

    report = run_parity(
        Request(
            reference=f"llamacpp:{model}",
            candidate=f"transformers+bf16:{model}",
            prompts=("hello",),
            plan=Plan(noise=profile),
            arbiter=True,
        )
    )

    assert report.verdict is Verdict.PASS
    assert report.not_judged == []
    assert report.arbitration is not None
    assert report.arbitration.further == "undecided"
    origins = {j.gate.origin for c in report.comparisons for s in c.sites for j in s.judged}
    assert all("llamacpp+q8-kvf16 and" in o and "transformers+bf16" in o for o in origins)
