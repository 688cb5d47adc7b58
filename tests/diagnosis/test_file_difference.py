"""Where both engines are right about their own file, the difference is in the files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.diagnose import diagnose
from cotejar.diagnosis.request import Request
from cotejar.model.language_model import open_language_model
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_models import write_tiny_apr, write_tiny_gguf
from cotejar.verdict import Verdict

from .conftest import DECODERS, TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.diagnosis.result import Diagnosis

    from .conftest import Models

LLAMA = DECODERS["llama"]


def judge(reference: object, candidate: object) -> Diagnosis:
    request = Request(reference=str(reference), candidate=str(candidate), token_ids=TOKENS)
    return diagnose(request)


@pytest.mark.parametrize("pairing", ["halves", "adjacent"])
def test_another_container_passes(models: Models, tmp_path: Path, pairing: str) -> None:
    path = write_tiny_apr(tmp_path / "tiny.apr", LLAMA, pairing=pairing)  # type: ignore[arg-type]

    result = judge(models.path("llama"), path)

    assert (result.verdict, result.wrong_side) == (Verdict.PASS, "neither")


def test_another_quantisation_passes(models: Models, tmp_path: Path) -> None:
    decoder = replace(LLAMA, block_type=BlockType.Q8_0)
    path = write_tiny_gguf(tmp_path / "other.gguf", decoder)

    result = judge(models.path("llama"), path)

    assert (result.verdict, result.summary) == (
        Verdict.PASS,
        "each side is right about its own file; 16 tensors are of another type, within that "
        "type's rounding",
    )


@pytest.mark.parametrize(
    ("changes", "site", "cause"),
    [
        ({"rope_theta": 1000.0}, "layer.0.q_rope", "rope-theta"),
        ({"rms_eps": 2.0**-7}, "layer.0.attn_norm", "norm-eps"),
    ],
)
def test_a_wrong_key_of_the_configuration_is_named(
    models: Models, tmp_path: Path, changes: dict[str, float], site: str, cause: str
) -> None:
    path = write_tiny_gguf(tmp_path / "other.gguf", replace(LLAMA, **changes))  # type: ignore[arg-type]

    result = judge(models.path("llama"), path)

    assert (result.verdict, result.site, result.wrong_side) == (
        Verdict.FAIL, site, "candidate",
    )  # fmt: skip
    assert [c.id for c in result.causes] == [cause]
    key = next(iter(changes))
    assert result.summary.startswith(
        f"each engine is right about its own file, and the files differ in {key}."
    )


def test_a_tensor_read_with_the_wrong_nibble_first_is_named(
    models: Models, tmp_path: Path
) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    matrix = models("llama").weights[name]
    blocks = np.array(matrix.raw).reshape(-1, 20)
    blocks[:, 4:] = blocks[:, 4:] << 4 | blocks[:, 4:] >> 4
    whole = (tmp_path / "wrong.gguf").with_suffix(".gguf")
    data = models("llama").file.path.read_bytes()
    start = data.find(matrix.raw.tobytes())
    whole.write_bytes(data[:start] + blocks.tobytes() + data[start + blocks.size :])
    assert open_language_model(whole).fingerprint != models("llama").fingerprint

    result = judge(models.path("llama"), whole)

    assert (result.site, result.wrong_side) == ("layer.1.ffn_out", "candidate")
    assert result.causes[0].id == "nibble-order"
    assert f"the files differ in {name}." in result.summary


def test_models_of_other_shapes_are_incomparable(models: Models, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "deeper.gguf", replace(LLAMA, num_layers=3))

    result = judge(models.path("llama"), path)

    assert (result.verdict, result.summary) == (
        Verdict.INCOMPARABLE,
        "each side is right about its own file, and the two files are of models of different "
        "shapes",
    )
