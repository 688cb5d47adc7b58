"""Where both engines are right about their own file, the difference is in the files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cotejar.diagnosis.diagnose import diagnose
from cotejar.diagnosis.file_difference import compare_files
from cotejar.diagnosis.observed import declared_truth
from cotejar.diagnosis.request import Request
from cotejar.formats.gguf.reader import GgufFile
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.formats.open_model import open_model
from cotejar.model.language_model import open_language_model
from cotejar.quant.block_type import BlockType
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_apr, write_tiny_gguf
from cotejar.verdict import Verdict

from .conftest import DECODERS, TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from cotejar.diagnosis.observed import Truth
    from cotejar.diagnosis.result import Diagnosis

    from .conftest import Models

LLAMA = DECODERS["llama"]


def is_explained(result: Diagnosis) -> bool:
    """What the first cause leaves is within the limit, and what there was is not."""
    cause = result.causes[0]
    return cause.residual_after <= cause.limit < cause.residual_before


def truth_of(path: object) -> Truth:
    declared = open_language_model(str(path)).declared
    return declared_truth(declared.config, declared.weights)


def rewrite(
    source: object,
    target: Path,
    *,
    keys: dict[str, GgufValue] | None = None,
    drop: str = "?",
    drop_key: str = "?",
    data: dict[str, np.ndarray] | None = None,
) -> Path:
    """A GGUF with other keys, without some tensors and keys, with other bytes of a tensor."""
    file = open_model(str(source))
    assert isinstance(file, GgufFile)
    metadata = {k: v for k, v in file.typed_metadata.items() if drop_key not in k}
    tensors = [
        GgufTensor(
            name=name,
            block_type=entry.decodable_type(file.path),
            shape=entry.shape,
            data=np.asarray((data or {}).get(name, file.read_bytes(name)))
            .view(np.uint8)
            .reshape(-1),
        )
        for name, entry in file.tensors.items()
        if not (name == drop or (drop != "output.weight" and drop in name))
    ]
    assert drop == "?" or len(tensors) < len(file.tensors)
    assert drop_key == "?" or len(metadata) < len(file.typed_metadata)
    write_gguf(target, metadata=metadata | (keys or {}), tensors=tensors)
    return target


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
    key, wrong = next(iter(changes.items()))
    right = getattr(LLAMA, key)
    assert result.causes[0].title == f"{key} is {wrong:.7g} and ought to be {right:.7g}"
    assert is_explained(result)
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


def test_models_of_other_depths_are_incomparable(models: Models, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "deeper.gguf", replace(LLAMA, num_layers=3))

    result = judge(models.path("llama"), path)

    assert (result.verdict, result.summary) == (
        Verdict.INCOMPARABLE,
        "each side is right about its own file, and the two files are of models of different "
        "shapes: the candidate's file alone has model.layers.2.input_layernorm.weight, "
        "model.layers.2.self_attn.q_proj.weight, model.layers.2.self_attn.k_proj.weight and 6 "
        "more",
    )


def test_tensors_of_other_shapes_are_found_with_both(models: Models, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "wide.gguf", replace(LLAMA, ffn_size=192))

    difference = compare_files(truth_of(models.path("llama")), truth_of(path))

    assert difference.config_keys == ("ffn_size",)
    assert difference.reshaped[0] == (
        "model.layers.0.mlp.gate_proj.weight", (160, 96), (192, 96),
    )  # fmt: skip
    assert len(difference.reshaped) == 6


BIASED = TinyDecoder(num_layers=2, attention_bias=True)
O_BIAS = "model.layers.{}.self_attn.o_proj.bias"


def test_a_bias_that_the_conversion_lost_is_named_with_its_tensors(tmp_path: Path) -> None:
    whole = write_tiny_gguf(tmp_path / "whole.gguf", BIASED)
    lost = rewrite(whole, tmp_path / "lost.gguf", drop="attn_output.bias")

    result = judge(whole, lost)

    assert (result.verdict, result.site, result.wrong_side) == (
        Verdict.FAIL, "layer.0.attn_out", "candidate",
    )  # fmt: skip
    assert [(c.id, c.title) for c in result.causes] == [
        (
            "bias-missing",
            f"{O_BIAS.format(0)} is missing in the candidate's file; so is {O_BIAS.format(1)}",
        )
    ]
    assert is_explained(result)


def test_a_bias_that_the_conversion_added_is_named_with_its_tensors(tmp_path: Path) -> None:
    whole = write_tiny_gguf(tmp_path / "whole.gguf", BIASED)
    lost = rewrite(whole, tmp_path / "lost.gguf", drop="attn_output.bias")

    result = judge(lost, whole)

    assert [(c.id, c.title) for c in result.causes] == [
        (
            "bias-extra",
            f"{O_BIAS.format(0)} is in the candidate's file alone; so is {O_BIAS.format(1)}",
        )
    ]
    assert is_explained(result)


def test_a_head_beside_a_tied_table_is_named(tmp_path: Path) -> None:
    own = write_tiny_gguf(tmp_path / "own.gguf", TinyDecoder(num_layers=2))
    tied = rewrite(own, tmp_path / "tied.gguf", drop="output.weight")

    stale, lost = judge(tied, own), judge(own, tied)

    assert [(r.verdict, r.site, r.wrong_side) for r in (stale, lost)] == [
        (Verdict.FAIL, "logits", "candidate")
    ] * 2
    assert [(c.id, c.title) for c in (*stale.causes, *lost.causes)] == [
        (
            "head-untied",
            "the candidate's file has an LM head of its own that is not the embedding table, "
            "and the reference's head is that table",
        ),
        (
            "head-tied",
            "the candidate's file has no LM head and takes the embedding table; the "
            "reference's file has one that is another",
        ),
    ]
    assert is_explained(stale)
    assert is_explained(lost)


def test_the_tied_table_stored_twice_passes(tmp_path: Path) -> None:
    tied = TinyDecoder(num_layers=2, tied_embeddings=True)
    once = write_tiny_gguf(tmp_path / "once.gguf", tied)
    twice = write_tiny_gguf(tmp_path / "twice.gguf", replace(tied, repeat_tied_head=True))

    assert judge(once, twice).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("key", "value", "site", "cause"),
    [
        (
            "llama.rope.dimension_count",
            GgufValue.encode(ValueType.UINT32, 8),
            "layer.0.q_rope",
            ("rope-partial", "rope_dim is 8 and ought to be 16"),
        ),
        (
            "llama.attention.layer_norm_rms_epsilon",
            GgufValue.encode(ValueType.FLOAT32, 1e-5),
            "layer.0.attn_norm",
            ("norm-eps", "rms_eps is 1e-05 and ought to be 0.0009765625"),
        ),
    ],
)
def test_a_key_is_named_with_both_values(
    tmp_path: Path, key: str, value: GgufValue, site: str, cause: tuple[str, str]
) -> None:
    right = write_tiny_gguf(tmp_path / "right.gguf", TinyDecoder(num_layers=2))
    wrong = rewrite(right, tmp_path / "wrong.gguf", keys={key: value})

    result = judge(right, wrong)

    assert (result.site, result.wrong_side) == (site, "candidate")
    assert [(c.id, c.title) for c in result.causes] == [cause]
    assert is_explained(result)


def test_a_window_that_was_lost_is_named(tmp_path: Path) -> None:
    decoder = TinyDecoder(architecture="mistral", num_layers=2, sliding_window=5)
    right = write_tiny_gguf(tmp_path / "right.gguf", decoder)
    wrong = rewrite(right, tmp_path / "wrong.gguf", drop_key="sliding_window")

    result = judge(right, wrong)

    assert (result.site, result.causes[0].id, result.causes[0].title) == (
        "layer.0.attn_context",
        "window-missing",
        "sliding_window is none and ought to be 5",
    )


def test_a_tensor_that_is_quite_another_is_said_to_be_so(tmp_path: Path) -> None:
    right = write_tiny_gguf(tmp_path / "right.gguf", TinyDecoder(num_layers=2))
    noise = np.random.default_rng(0).normal(0, 0.1, (96, 96)).astype(np.float32)
    wrong = rewrite(right, tmp_path / "wrong.gguf", data={"blk.1.attn_output.weight": noise})

    result = judge(right, wrong)

    name = "model.layers.1.self_attn.o_proj.weight"
    assert (result.site, result.wrong_side) == ("layer.1.attn_out", "candidate")
    assert result.summary.startswith(
        f"each engine is right about its own file, and the files differ in {name}."
    )
    assert any(
        c.id == "weight-changed" and c.title.startswith(f"{name} is another in 96 of 96 rows, ")
        for c in result.causes
    )


def test_a_lost_row_is_no_rounding_of_another_type(tmp_path: Path) -> None:
    """One row of 320 is 0.06 of the tensor's size, and Q8_0 may be 0.01 away as a whole."""
    right = write_tiny_gguf(tmp_path / "right.gguf", TinyDecoder(num_layers=2))
    eight = write_tiny_gguf(
        tmp_path / "eight.gguf", TinyDecoder(num_layers=2, block_type=BlockType.Q4_0)
    )
    file = open_model(eight)
    raw = np.array(file.read_bytes("token_embd.weight"))
    raw.reshape(320, -1)[7] = 0
    wrong = rewrite(eight, tmp_path / "wrong.gguf", data={"token_embd.weight": raw})

    sound = compare_files(truth_of(right), truth_of(eight))
    difference = compare_files(truth_of(right), truth_of(wrong))

    assert (sound.changed, difference.changed) == ((), ("model.embed_tokens.weight",))


def test_one_flipped_bit_is_one_element_and_no_adapter(tmp_path: Path) -> None:
    """Its difference is a matrix of rank 1, as an adapter's would be."""
    right = write_tiny_gguf(tmp_path / "right.gguf", replace(LLAMA, block_type=BlockType.F32))
    file = open_model(str(right))
    assert isinstance(file, GgufFile)
    values = np.array(file.read_bytes("blk.1.ffn_down.weight")).view(np.float32)
    values.view(np.uint32)[3 * LLAMA.ffn_size + 5] ^= 1 << 26
    wrong = rewrite(right, tmp_path / "wrong.gguf", data={"blk.1.ffn_down.weight": values})

    result = judge(right, wrong)

    assert (result.verdict, result.site) == (Verdict.FAIL, "layer.1.ffn_out")
    assert result.causes[0].id == "element-wrong"
    assert "row 3 column 5" in result.causes[0].title
    assert is_explained(result)


def test_half_of_the_columns_doubled_is_two_numbers(tmp_path: Path) -> None:
    right = write_tiny_gguf(tmp_path / "right.gguf", replace(LLAMA, block_type=BlockType.F32))
    file = open_model(str(right))
    assert isinstance(file, GgufFile)
    weight = np.array(file.read_bytes("blk.1.ffn_down.weight")).view(np.float32)
    weight.reshape(-1, LLAMA.ffn_size)[:, LLAMA.ffn_size // 2 :] *= 2
    wrong = rewrite(right, tmp_path / "wrong.gguf", data={"blk.1.ffn_down.weight": weight})

    assert judge(right, wrong).causes[0].title == "the 2 parts of the input count 1 2 times"
