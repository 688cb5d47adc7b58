"""Opening a model: every tensor that is needed, none that is not, and who it is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cotejar.errors import (
    CotejarError,
    LeftoverTensorError,
    MissingTensorError,
    TensorNameError,
    WeightShapeError,
)
from cotejar.formats.gguf.reader import open_gguf
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.model.inventory import EMBEDDING, LM_HEAD, ROPE_DIVISORS, layer_tensor
from cotejar.model.language_model import open_language_model
from cotejar.model.weights import fingerprint_weights
from cotejar.quant.block_matrix import BlockMatrix
from cotejar.quant.block_type import BlockType
from cotejar.quant.codec import decode, encode
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_apr, write_tiny_gguf, write_tiny_hugging_face

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Weights = dict[str, np.ndarray]


def change_folder(folder: Path, change: Callable[[Weights], object]) -> Path:
    """A tiny folder whose weights were changed in place."""
    write_tiny_hugging_face(folder, TinyDecoder())
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    return folder


def change_gguf(
    path: Path, change: Callable[[list[GgufTensor]], list[GgufTensor]], **fields: Any
) -> Path:
    """A tiny GGUF whose tensor list was changed."""
    original = write_tiny_gguf(path.with_suffix(".original"), TinyDecoder(**fields))
    with open_gguf(original) as file:
        tensors = [
            GgufTensor(
                name=entry.name,
                block_type=entry.block_type,
                shape=entry.shape,
                data=file.read_bytes(entry.name).copy(),
            )
            for entry in file.tensors.values()
        ]
        write_gguf(path, metadata=file.typed_metadata, tensors=change(tensors))
    return path


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    lost = layer_tensor(1, "mlp.down_proj.weight")
    folder = change_folder(tmp_path / "tiny", lambda weights: weights.pop(lost))

    with pytest.raises(MissingTensorError) as caught:
        open_language_model(folder)

    assert str(caught.value) == (
        "error[APR-M005]: 1 of 21 tensors are missing; the first is "
        "model.layers.1.mlp.down_proj.weight\n"
        f"  where     {folder}\n"
        "  expected  21 tensors for 2 layers of llama\n"
        "  found     20 of them\n"
        "  try       `apr tensors` lists what is there; fetch or convert the model again"
    )


def test_a_leftover_tensor_is_named(tmp_path: Path) -> None:
    extra = layer_tensor(1, "self_attn.sinks")
    folder = change_folder(
        tmp_path / "tiny", lambda weights: weights.update({extra: np.zeros(6, np.float32)})
    )

    with pytest.raises(LeftoverTensorError) as caught:
        open_language_model(folder)

    assert str(caught.value) == (
        "error[APR-M006]: 1 tensors have no use here; the first is "
        "model.layers.1.self_attn.sinks\n"
        f"  where     {folder}\n"
        "  expected  the 21 tensors of 2 layers of llama\n"
        "  found     22 tensors\n"
        "  try       running without them would be another model; is the layer count right?"
    )


def test_a_layer_too_few_in_the_config_leaves_tensors_over(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "tiny", TinyDecoder())
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(LeftoverTensorError, match="9 tensors have no use here"):
        open_language_model(folder)


@pytest.mark.parametrize(
    ("name", "change", "expected", "found"),
    [
        ("mlp.down_proj.weight", np.transpose, "(96, 160)", "(160, 96)"),
        ("input_layernorm.weight", lambda w: w[:-1], "(96,)", "(95,)"),
        ("self_attn.k_proj.weight", lambda w: np.repeat(w, 3, axis=0), "(32, 96)", "(96, 96)"),
        ("input_layernorm.weight", lambda w: w[None], "(96,)", "(1, 96)"),
    ],
)
def test_a_wrong_shape_is_named(
    tmp_path: Path,
    name: str,
    change: Callable[[np.ndarray], np.ndarray],
    expected: str,
    found: str,
) -> None:
    name = layer_tensor(1, name)
    folder = change_folder(
        tmp_path / "tiny",
        lambda weights: weights.update({name: np.ascontiguousarray(change(weights[name]))}),
    )

    with pytest.raises(WeightShapeError) as caught:
        open_language_model(folder)

    assert str(caught.value) == (
        f"error[APR-M007]: tensor {name} has the wrong shape\n"
        f"  where     {folder}\n"
        f"  expected  {expected}, row-major\n"
        f"  found     {found}\n"
        "  try       a transposed or resized tensor; convert the model again"
    )


@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 4), (320,)])
def test_an_embedding_of_another_rank_is_refused(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    folder = change_folder(
        tmp_path / "tiny",
        lambda weights: weights.update({EMBEDDING: np.ones(shape, np.float32)}),
    )

    with pytest.raises(WeightShapeError, match=f"tensor {EMBEDDING} has the wrong shape"):
        open_language_model(folder)


@pytest.mark.parametrize(
    ("architecture", "part"),
    [("qwen2", "attn_k.bias"), ("qwen2", "attn_q.bias"), ("qwen3", "attn_q_norm.weight")],
)
def test_what_the_architecture_demands_is_missed_even_if_no_layer_has_it(
    tmp_path: Path, architecture: str, part: str
) -> None:
    path = change_gguf(
        tmp_path / "tiny.gguf",
        lambda tensors: [t for t in tensors if not t.name.endswith(part)],
        architecture=architecture,
    )

    with pytest.raises(MissingTensorError, match=r"2 of (27|25) tensors"):
        open_language_model(path)


def test_a_head_norm_is_left_over_in_a_llama(tmp_path: Path) -> None:
    norm = GgufTensor(
        name="blk.0.attn_q_norm.weight",
        block_type=BlockType.F32,
        shape=(16,),
        data=np.zeros(64, np.uint8),
    )
    path = change_gguf(tmp_path / "tiny.gguf", lambda tensors: [*tensors, norm])

    with pytest.raises(LeftoverTensorError):
        open_language_model(path)


def test_two_spellings_of_one_tensor_are_refused(tmp_path: Path) -> None:
    path = change_gguf(
        tmp_path / "tiny.gguf",
        lambda tensors: [*tensors, replace(tensors[0], name=EMBEDDING)],
    )

    with pytest.raises(TensorNameError) as caught:
        open_language_model(path)

    assert str(caught.value) == (
        f"error[APR-F021]: two tensors are both {EMBEDDING}\n"
        f"  where     {path}\n"
        "  expected  one tensor a name\n"
        f"  found     token_embd.weight and {EMBEDDING}\n"
        "  try       convert the model again"
    )


def test_an_old_rotary_table_is_no_weight(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    folder = change_folder(
        tmp_path / "tiny", lambda weights: weights.update({name: np.ones(8, np.float32)})
    )

    assert name not in open_language_model(folder).weights


@pytest.mark.parametrize("count", [7, 9])
def test_divisors_for_other_pairs_are_refused(tmp_path: Path, count: int) -> None:
    decoder = TinyDecoder(rope_divisors=(1.0,) * count)
    path = write_tiny_gguf(tmp_path / "tiny.gguf", decoder)

    with pytest.raises(CotejarError, match="rope frequency divisors") as caught:
        open_language_model(path)

    assert (caught.value.parts["expected"], caught.value.parts["found"]) == (
        *("8, one a pair", str(count)),
    )


def test_a_huge_table_of_divisors_is_not_decoded(tmp_path: Path) -> None:
    decoder = TinyDecoder(rope_divisors=(1.0,) * 100_000)
    path = write_tiny_gguf(tmp_path / "tiny.gguf", decoder)

    with pytest.raises(WeightShapeError, match="has the wrong shape"):
        open_language_model(path)


def test_a_divisor_that_is_no_list_is_refused(tmp_path: Path) -> None:
    folder = change_folder(
        tmp_path / "tiny",
        lambda weights: weights.update({ROPE_DIVISORS: np.float32([8]).reshape(())}),
    )

    with pytest.raises(CotejarError, match="rope frequency divisors"):
        open_language_model(folder)


@pytest.mark.parametrize("divisor", [0.0, -1.0, np.nan, np.inf])
def test_a_divisor_that_cannot_divide_is_refused(tmp_path: Path, divisor: float) -> None:
    decoder = TinyDecoder(rope_divisors=(*(1.0,) * 7, divisor))
    path = write_tiny_gguf(tmp_path / "tiny.gguf", decoder)

    with pytest.raises(CotejarError, match="rope divisor 7"):
        open_language_model(path)


# --- identity ---------------------------------------------------------------------------


def test_a_model_has_one_fingerprint_in_every_container(tiny: Any) -> None:
    decoder = TinyDecoder(architecture="qwen2", tied_embeddings=True)

    prints = {tiny(decoder, kind).fingerprint for kind in ("gguf", "apr", "safetensors")}

    assert len(prints) == 1
    assert next(iter(prints)).startswith("sha256:")


@pytest.mark.parametrize("block_type", [BlockType.F32, BlockType.Q8_0, BlockType.Q4_1])
@pytest.mark.parametrize("bias", [False, True])
def test_the_order_of_rotated_rows_is_no_part_of_the_identity(
    tiny: Any, block_type: BlockType, *, bias: bool
) -> None:
    """A llama's GGUF has its q and k in neighbouring pairs, an `.apr` may have either."""
    decoder = TinyDecoder(block_type=block_type, attention_bias=bias)

    gguf, adjacent = tiny(decoder), tiny(decoder, "apr", pairing="adjacent")
    halves = tiny(decoder, "apr", pairing="halves")

    assert [m.config.rope.pairing for m in (gguf, adjacent, halves)] == [
        *("adjacent", "adjacent", "halves")
    ]
    name = layer_tensor(0, "self_attn.q_proj.weight")
    assert gguf.weights[name].raw.tobytes() != halves.weights[name].raw.tobytes()
    assert gguf.fingerprint == adjacent.fingerprint == halves.fingerprint
    if block_type is BlockType.F32:  # a folder holds no blocks
        assert tiny(decoder, "safetensors").fingerprint == gguf.fingerprint


ROTATED = [f"self_attn.{p}_proj.{kind}" for p in "qk" for kind in ("weight", "bias")]
OUTPUTS = {"q": 96, "k": 32}


def reordered(matrix: BlockMatrix, order: list[int]) -> BlockMatrix:
    """The same rows (of a bias, values) in another order."""
    rows = matrix.raw.reshape(len(order), -1)
    return replace(matrix, raw=np.ascontiguousarray(rows[order]).reshape(-1))


@pytest.mark.parametrize("kind", ["gguf", "apr"])
@pytest.mark.parametrize("part", [*ROTATED, "self_attn.v_proj.weight"])
def test_two_rows_exchanged_are_another_model(tiny: Any, kind: str, part: str) -> None:
    """Also the two of a pair, and the same row of two heads."""
    model = tiny(TinyDecoder(attention_bias=True), kind)
    name = layer_tensor(1, part)
    matrix = model.weights[name]
    outputs = max(matrix.rows, 1) if "weight" in part else matrix.columns

    prints = {model.fingerprint}
    for a, b in ((0, 1), (0, 8), (3, 19)):  # heads of 16
        order = list(range(outputs))
        order[a], order[b] = b, a
        changed = model.weights.replaced({name: reordered(matrix, order)})
        prints.add(fingerprint_weights(changed, model.config))

    assert len(prints) == 4


@pytest.mark.parametrize("part", ROTATED)
@pytest.mark.parametrize("kind", ["gguf", "apr"])
def test_rows_in_the_wrong_order_are_another_model(tiny: Any, kind: str, part: str) -> None:
    """A converter that forgot to permute one tensor, or did so where it must not."""
    decoder = TinyDecoder(attention_bias=True)
    model, other = tiny(decoder, kind), tiny(decoder, {"gguf": "apr", "apr": "gguf"}[kind])
    name = layer_tensor(0, part)

    wrong = model.weights.replaced({name: other.weights[name]})

    assert model.fingerprint == other.fingerprint
    assert fingerprint_weights(wrong, model.config) != model.fingerprint


@pytest.mark.parametrize("rotated", [16, 8, 2])
def test_what_is_not_rotated_keeps_its_place(tiny: Any, rotated: int) -> None:
    """Of a head of 16 outputs; pairs (i, i + rotated / 2) against (2i, 2i + 1)."""
    model = tiny(TinyDecoder(attention_bias=True), "apr")
    half = rotated // 2
    pairs = [j for i in range(half) for j in (i, i + half)] + list(range(rotated, 16))
    changes = {}
    for part in ROTATED:
        heads = OUTPUTS[part[10]] // 16
        order = [16 * head + i for head in range(heads) for i in pairs]
        for layer in range(2):
            name = layer_tensor(layer, part)
            changes[name] = reordered(model.weights[name], order)
    halves, adjacent = (
        replace(model.config, rope=replace(model.config.rope, dim=rotated, pairing=pairing))
        for pairing in ("halves", "adjacent")
    )

    moved = fingerprint_weights(model.weights.replaced(changes), adjacent)

    assert moved == fingerprint_weights(model.weights, halves) == model.fingerprint


def test_a_tied_head_stored_twice_is_the_same_model(tiny: Any) -> None:
    once = tiny(TinyDecoder(tied_embeddings=True))
    twice = tiny(TinyDecoder(tied_embeddings=True, repeat_tied_head=True))
    untied = tiny(TinyDecoder())

    assert LM_HEAD in twice.weights
    assert LM_HEAD not in once.weights
    assert once.fingerprint == twice.fingerprint
    assert once.config.comparable() == twice.config.comparable()
    assert untied.fingerprint != once.fingerprint


def test_a_rebuilt_seed_is_the_same_model_and_another_is_not(tiny: Any) -> None:
    assert tiny(TinyDecoder(seed=1)).fingerprint == tiny(TinyDecoder(seed=1)).fingerprint
    assert tiny(TinyDecoder(seed=1)).fingerprint != tiny(TinyDecoder(seed=2)).fingerprint


@pytest.mark.parametrize(
    "name", [EMBEDDING, layer_tensor(1, "mlp.up_proj.weight"), "model.norm.weight"]
)
def test_one_flipped_bit_is_another_model(tmp_path: Path, name: str) -> None:
    path = write_tiny_apr(tmp_path / "tiny.apr")
    model = open_language_model(path)
    before = model.fingerprint
    raw = model.weights[name].raw.copy()
    raw[-1] ^= 1
    changed = model.weights.replaced({name: replace(model.weights[name], raw=raw)})

    assert fingerprint_weights(model.weights, model.config) == before
    assert fingerprint_weights(changed, model.config) != before


def test_the_block_type_and_the_shape_are_part_of_the_identity(tiny: Any) -> None:
    """The same bytes read as something else are another model."""
    model = tiny()
    name = layer_tensor(0, "mlp.up_proj.weight")
    matrix = model.weights[name]
    as_integers = BlockMatrix(
        block_type=BlockType.F32, rows=matrix.columns, columns=matrix.rows, raw=matrix.raw
    )
    as_halves = BlockMatrix(
        block_type=BlockType.F16, rows=matrix.rows, columns=2 * matrix.columns, raw=matrix.raw
    )

    prints = {
        fingerprint_weights(model.weights.replaced({name: other}), model.config)
        for other in (matrix, as_integers, as_halves)
    }

    assert len(prints) == 3


def test_an_altered_model_keeps_its_identity(tiny: Any) -> None:
    """A fault injected on purpose must not make the two sides incomparable."""
    model = tiny()
    name = layer_tensor(0, "mlp.up_proj.weight")
    gate = model.weights[layer_tensor(0, "mlp.gate_proj.weight")]

    altered = model.altered(
        config=replace(model.config, rms_eps=1.0), weights=model.weights.replaced({name: gate})
    )

    assert altered.fingerprint == model.fingerprint
    assert altered.declared.config == model.config
    assert altered.config.rms_eps == 1.0
    assert altered.weights[name] is gate


def test_opening_reads_no_weight(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a weight was decoded")

    monkeypatch.setattr(BlockMatrix, "decode_rows", fail)

    assert len(tiny().weights) == 21


@pytest.mark.parametrize(("tied", "types"), [(False, ("F16",)), (True, ("F16", "Q8_0"))])
def test_a_table_of_embeddings_is_in_a_product_only_as_the_head(
    tmp_path: Path, tied: bool, types: tuple[str, ...]
) -> None:
    """Beside it everything is F16, but the norms, which nothing is multiplied with."""

    def quantize_table(tensors: list[GgufTensor]) -> list[GgufTensor]:
        table = next(t for t in tensors if t.name == "token_embd.weight")
        values = decode(table.block_type, np.asarray(table.data), int(np.prod(table.shape)))
        other = replace(table, block_type=BlockType.Q8_0, data=encode(BlockType.Q8_0, values))
        return [other if t is table else t for t in tensors]

    path = change_gguf(
        tmp_path / "m.gguf", quantize_table, tied_embeddings=tied, block_type=BlockType.F16
    )

    assert open_language_model(path).product_types == types
