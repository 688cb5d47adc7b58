"""gemma3 between GGUF, `.apr` and a folder; and what a GGUF cannot say of it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.errors import ConfigValueError, CotejarError, ReadBackError
from cotejar.files.conversion_check import check_conversion
from cotejar.files.diff_models import DiffOptions, TensorStatus, diff_models
from cotejar.formats.apr.writer import TensorToWrite, write_apr
from cotejar.formats.convert.export_model import export_model
from cotejar.formats.convert.import_model import import_model
from cotejar.formats.gguf.reader import open_gguf
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.formats.open_model import open_model
from cotejar.model.language_model import open_language_model
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import (
    write_tiny_apr,
    write_tiny_gguf,
    write_tiny_hugging_face,
)

if TYPE_CHECKING:
    from pathlib import Path

GEMMA3 = TinyDecoder(
    architecture="gemma3",
    num_layers=3,
    sliding_window=5,
    sliding_window_pattern=2,
    rope_theta=1e6,
    rope_local_theta=500.0,
    rope_scaling={"rope_type": "linear", "factor": 8.0},
    final_softcap=3.0,
    tied_embeddings=True,
)
DECODERS = {
    "every part": GEMMA3,
    "llama.cpp's defaults": TinyDecoder(
        architecture="gemma3", num_layers=7, sliding_window=5, tied_embeddings=True
    ),
    "no window": replace(GEMMA3, sliding_window=None),
    "all local": replace(GEMMA3, sliding_window_pattern=6),
}


def config_of(path: Path) -> Any:
    """Tied or not aside: an `.apr` stores the head twice."""
    return replace(open_language_model(path).config, tied_embeddings=True)


def rewrite(
    source: Path, target: Path, metadata: dict[str, object], arrays: dict[str, np.ndarray]
) -> None:
    """The same `.apr` with other metadata, or with other bytes of a tensor."""
    with open_model(source) as file:
        raw = {name: np.array(file.read_bytes(name)) for name in file.tensors}
        raw |= {name: array.view(np.uint8) for name, array in arrays.items()}
        tensors = [
            TensorToWrite(
                name=name,
                block_type=entry.block_type,
                shape=entry.shape,
                read=lambda name=name: [raw[name]],  # type: ignore[misc] # bound now, not later
            )
            for name, entry in file.tensors.items()
        ]
        write_apr(target, metadata=dict(file.metadata) | metadata, tensors=tensors)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("write", [write_tiny_gguf, write_tiny_hugging_face])
def test_a_gemma3_goes_to_apr_and_to_gguf_and_stays_the_same_model(
    tmp_path: Path, name: str, write: Any
) -> None:
    source = write(tmp_path / "source.gguf", DECODERS[name])
    apr, gguf = tmp_path / "a.apr", tmp_path / "b.gguf"

    import_model(source, apr, check=check_conversion)
    export_model(apr, gguf, check=check_conversion)

    wanted = DECODERS[name].config(pairing="halves")
    assert [config_of(path) for path in (source, apr, gguf)] == [wanted] * 3
    prints = {open_language_model(path).fingerprint for path in (source, apr, gguf)}
    assert len(prints) == 1


def test_a_gguf_comes_back_byte_for_byte(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "source.gguf", GEMMA3)

    import_model(source, tmp_path / "a.apr")
    export_model(tmp_path / "a.apr", tmp_path / "b.gguf")

    assert (tmp_path / "b.gguf").read_bytes() == source.read_bytes()


def test_an_export_has_llamacpps_keys_and_names(tmp_path: Path) -> None:
    """Made from an `.apr` that never was a GGUF: what llama.cpp assumes has no key."""
    plain = write_tiny_apr(tmp_path / "plain.apr", DECODERS["llama.cpp's defaults"])
    every = write_tiny_apr(tmp_path / "every.apr", GEMMA3)
    for path in (plain, every):
        export_model(path, path.with_suffix(".gguf"))

    with open_gguf(plain.with_suffix(".gguf")) as file:
        own = {k: v for k, v in file.metadata.items() if k.startswith("gemma3.")}
        names = {name for name in file.tensors if name.startswith("blk.0.") and "norm" in name}
    assert own["gemma3.attention.sliding_window"] == 5
    assert own["gemma3.attention.key_length"] == 32
    unsaid = (
        "attention.sliding_window_pattern",
        "rope.freq_base_swa",
        "final_logit_softcapping",
    )
    assert not {f"gemma3.{key}" for key in unsaid} & own.keys()
    with open_gguf(every.with_suffix(".gguf")) as file:
        assert [file.metadata[f"gemma3.{key}"] for key in unsaid] == [2, 500.0, 3.0]
    assert names == {
        f"blk.0.{part}.weight"
        for part in (
            *("attn_norm", "attn_q_norm", "attn_k_norm", "post_attention_norm"),
            *("ffn_norm", "post_ffw_norm"),
        )
    }


def test_norms_of_a_folder_get_their_1_and_a_note_and_nothing_else_changes(
    tmp_path: Path,
) -> None:
    folder = write_tiny_hugging_face(tmp_path / "folder", GEMMA3, dtype="float16")

    report = import_model(folder, tmp_path / "a.apr")

    assert report.notes[-1] == (
        "19 norms are written with the 1 that Hugging Face's gemma3 leaves out of them, in F32"
    )
    assert report.num_reencoded == 0
    check = check_conversion(report)
    assert (check.num_shifted, check.num_equal) == (19, 23)
    assert check.sentence.endswith("byte for byte; 19 norms equal them with 1 added")
    with open_model(folder) as source, open_model(tmp_path / "a.apr") as target:
        name = "model.layers.1.self_attn.k_norm.weight"
        stored = source.read_bytes(name).view(np.float16)
        np.testing.assert_array_equal(
            target.read_bytes(name).view(np.float32), np.float32(1) + stored.astype(np.float32)
        )


def test_a_norm_without_its_1_does_not_pass_the_check(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "folder", GEMMA3)
    report = import_model(folder, tmp_path / "a.apr")
    wrong = "model.norm.weight"
    with open_model(tmp_path / "a.apr") as file:
        less = file.read_bytes(wrong).view(np.float32) - 1
    rewrite(tmp_path / "a.apr", tmp_path / "wrong.apr", {}, {wrong: less})

    with pytest.raises(ReadBackError, match=wrong):
        check_conversion(report, tmp_path / "wrong.apr")


def test_a_folder_and_its_gguf_differ_in_no_tensor(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "folder", GEMMA3)
    gguf = write_tiny_gguf(tmp_path / "a.gguf", GEMMA3)

    same = diff_models(folder, gguf, DiffOptions(weights_only=True))

    assert (same.is_same, same.exit_code) == (True, 0)
    # Equal as what a model computes with; the bytes of a norm are not.
    assert same.count(TensorStatus.SAME_VALUES) == 19
    assert same.count(TensorStatus.EQUAL) == len(same.tensors) - 19
    other = write_tiny_gguf(tmp_path / "b.gguf", replace(GEMMA3, seed=1))
    assert diff_models(folder, other, DiffOptions(weights_only=True)).exit_code == 1


UNSAYABLE: dict[str, tuple[str, object, str]] = {
    "scalar": (
        "query_pre_attn_scalar",
        20,
        "32, what llama.cpp takes for these sizes",
    ),
    "layers": (
        "layer_types",
        ["full_attention", "full_attention", "sliding_attention"],
        "every n-th layer without a window",
    ),
    "layers, too few": (
        "layer_types",
        ["sliding_attention"],
        "every n-th layer without a window",
    ),
    "attention's cap": (
        "attn_logit_softcapping",
        50.0,
        "nothing: llama.cpp's gemma3 has no such thing",
    ),
    "activation": ("hidden_activation", "gelu", "gelu_pytorch_tanh"),
    "local theta": ("rope_local_base_freq", "x", "a positive finite number"),
    "cap": ("final_logit_softcapping", -1, "a positive finite number"),
}


@pytest.mark.parametrize("name", UNSAYABLE)
def test_what_a_gguf_cannot_say_is_refused(tmp_path: Path, name: str) -> None:
    key, value, expected = UNSAYABLE[name]
    apr = write_tiny_apr(tmp_path / "a.apr", GEMMA3)
    rewrite(apr, tmp_path / "b.apr", {key: value}, {})

    with pytest.raises(ConfigValueError) as caught:
        export_model(tmp_path / "b.apr", tmp_path / "b.gguf")

    assert str(caught.value) == (
        f"error[APR-M004]: a GGUF of gemma3 cannot say this {key}\n"
        f"  where     {tmp_path / 'b.apr'}, metadata key {key}\n"
        f"  expected  {expected}\n"
        f"  found     {value!r:.60}\n"
        "  try       llama.cpp would run another model; the `.apr` itself runs here"
    )
    assert not (tmp_path / "b.gguf").exists()


@pytest.mark.parametrize("value", [None, True, -1, 0, 10**18, 10**400, "x", [], {}, [1], 2.5])
@pytest.mark.parametrize(
    "key",
    [
        *("num_hidden_layers", "head_dim", "rope_parameters", "rope_local_base_freq"),
        *("layer_types", "sliding_window", "sliding_window_pattern", "hidden_activation"),
        *("query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping"),
    ],
)
def test_a_config_that_cannot_be_is_imported_or_refused_and_never_more(
    tmp_path: Path, key: str, value: object
) -> None:
    folder = write_tiny_hugging_face(tmp_path / "folder", GEMMA3)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    with contextlib.suppress(CotejarError):
        import_model(folder, tmp_path / "a.apr")
        with_apr = open_language_model(tmp_path / "a.apr").config
        # What can be run is the same model in both.
        config = open_language_model(folder).config
        assert replace(with_apr, tied_embeddings=True) == replace(config, tied_embeddings=True)


def test_a_pattern_of_windows_that_is_no_number_is_refused(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "source.gguf", GEMMA3)
    with open_gguf(source) as file:
        key = "gemma3.attention.sliding_window_pattern"
        typed = {**file.typed_metadata, key: GgufValue.encode_array(ValueType.INT32, [1, 0, 1])}
        tensors = [
            GgufTensor(
                name=name,
                block_type=entry.block_type,
                shape=entry.shape,
                data=np.array(file.read_bytes(name)),
            )
            for name, entry in file.tensors.items()
        ]
    write_gguf(tmp_path / "list.gguf", metadata=typed, tensors=tensors)

    with pytest.raises(ConfigValueError) as caught:
        import_model(tmp_path / "list.gguf", tmp_path / "a.apr")

    assert str(caught.value) == (
        "error[APR-M004]: the pattern of windows cannot be used\n"
        f"  where     {tmp_path / 'list.gguf'}, key {key}\n"
        "  expected  a whole number: of so many layers the last has no window\n"
        "  found     [1, 0, 1]\n"
        "  try       llama.cpp's gemma3 reads a number there too; convert the model again"
    )


def test_a_window_in_some_layers_of_a_qwen2_is_kept_and_not_exported(tmp_path: Path) -> None:
    decoder = TinyDecoder(architecture="qwen2", num_layers=3, sliding_window=4)
    folder = write_tiny_hugging_face(tmp_path / "folder", decoder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_window_layers": 2}))

    import_model(folder, tmp_path / "a.apr")

    config = open_language_model(tmp_path / "a.apr").config
    assert (config.sliding_window, config.global_layers) == (4, (0, 1))
    with pytest.raises(ConfigValueError) as caught:
        export_model(tmp_path / "a.apr", tmp_path / "b.gguf")
    assert str(caught.value) == (
        "error[APR-M004]: GGUF has no words for layers that differ in their window\n"
        f"  where     {tmp_path / 'a.apr'}, metadata key layer_types\n"
        "  expected  the window in all layers or in none\n"
        "  found     layers of both kinds\n"
        "  try       llama.cpp would run another model; the `.apr` itself runs here"
    )


def test_a_window_that_a_qwen2_does_not_use_is_left_out(tmp_path: Path) -> None:
    """28 layers are the default of `max_window_layers`: a smaller model has no window."""
    decoder = TinyDecoder(architecture="qwen2", sliding_window=4)
    folder = write_tiny_hugging_face(tmp_path / "folder", decoder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("max_window_layers")
    path.write_text(json.dumps(config))

    import_model(folder, tmp_path / "a.apr")

    assert open_language_model(tmp_path / "a.apr").config.sliding_window is None
    assert open_language_model(folder).config.sliding_window is None
