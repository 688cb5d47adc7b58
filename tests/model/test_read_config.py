"""Every source is read as the same configuration; what cannot be is refused with figures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotejar.errors import ArchitectureError, ConfigValueError, CotejarError, MissingConfigError
from cotejar.formats.gguf.reader import open_gguf
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.model.inventory import tensor_shapes
from cotejar.model.language_model import open_language_model
from cotejar.model.read_config import read_config
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_hugging_face

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cotejar.model.config import DecoderConfig

DECODERS = {
    "llama": TinyDecoder(),
    "llama, biases": TinyDecoder(attention_bias=True, mlp_bias=True),
    "llama, linear": TinyDecoder(rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "mistral": TinyDecoder(architecture="mistral", sliding_window=5, head_dim=32),
    "qwen2": TinyDecoder(architecture="qwen2", tied_embeddings=True),
    "qwen3": TinyDecoder(architecture="qwen3", context_length=77, rope_theta=1e6),
    "gemma3": TinyDecoder(
        architecture="gemma3",
        num_layers=3,
        sliding_window=5,
        sliding_window_pattern=2,
        rope_theta=1e6,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    ),
    "gemma3, other values": TinyDecoder(
        architecture="gemma3",
        sliding_window=5,
        rope_local_theta=500.0,
        final_softcap=3.0,
        tied_embeddings=True,
    ),
    "gemma3, no window": TinyDecoder(architecture="gemma3", head_dim=16),
}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", ["gguf", "apr", "safetensors"])
def test_a_file_is_read_as_it_was_written(tiny: Any, name: str, kind: str) -> None:
    model = tiny(DECODERS[name], kind)

    assert model.config == DECODERS[name].config(pairing=model.config.rope.pairing)


@pytest.mark.parametrize("name", DECODERS)
def test_the_comparable_part_is_the_same_for_every_source(tiny: Any, name: str) -> None:
    kinds = [tiny(DECODERS[name], kind) for kind in ("gguf", "apr", "safetensors")]
    kinds.append(tiny(DECODERS[name], "apr", pairing="adjacent"))

    comparable = [model.config.comparable() for model in kinds]

    assert comparable[1:] == comparable[:-1]


@pytest.mark.parametrize(
    ("architecture", "pairing"),
    [("llama", "adjacent"), ("qwen2", "halves"), ("qwen3", "halves")],
)
def test_the_architecture_says_the_pairing_of_a_gguf(
    tiny: Any, architecture: Any, pairing: str
) -> None:
    assert tiny(TinyDecoder(architecture=architecture)).config.rope.pairing == pairing


def test_the_demo_model_is_read(demo_model: Path) -> None:
    config = open_language_model(demo_model).config

    assert (config.architecture, config.num_layers, config.hidden_size) == ("llama", 30, 576)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (9, 3, 64)
    assert (config.ffn_size, config.vocab_size, config.context_length) == (1536, 49152, 8192)
    assert config.rms_eps == np.float32(1e-5)
    assert (config.rope.theta, config.rope.pairing) == (100000.0, "adjacent")
    assert config.tied_embeddings
    assert not config.qkv_bias


@pytest.mark.qwen
def test_qwen_is_read(qwen_model: Path) -> None:
    config = open_language_model(qwen_model).config

    assert (config.architecture, config.num_layers, config.hidden_size) == ("qwen2", 24, 896)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (14, 2, 64)
    assert (config.rope.theta, config.rope.pairing) == (1000000.0, "halves")
    assert config.qkv_bias
    assert not config.output_bias


# --- readers on metadata alone --------------------------------------------------------


@dataclass
class Metadata:
    """An opened file as far as a configuration needs one."""

    format: str
    metadata: Mapping[str, object]
    path: Path = field(default_factory=lambda: Path("model.file"))


NAMES = frozenset(tensor_shapes(TinyDecoder().config(pairing="halves")))


def read(
    kind: str, metadata: Mapping[str, object], *, divisors: tuple[float, ...] = ()
) -> DecoderConfig:
    file: Any = Metadata(kind, metadata)
    return read_config(file, NAMES, rope_divisors=divisors, embedding_rows=320)


GGUF = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 64,
    "llama.embedding_length": 96,
    "llama.feed_forward_length": 160,
    "llama.attention.head_count": 6,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}
APR = {
    "architecture": "llama",
    "num_layers": 2,
    "hidden_size": 96,
    "num_heads": 6,
    "intermediate_size": 160,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_type": 2,
}
HUGGING_FACE = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 96,
    "num_attention_heads": 6,
    "intermediate_size": 160,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}


def read_hugging_face(**changes: object) -> DecoderConfig:
    return read("safetensors", {"config": HUGGING_FACE | changes})


def test_what_a_gguf_leaves_out_has_ggmls_defaults() -> None:
    config = read("gguf", GGUF)

    assert (config.num_kv_heads, config.head_dim, config.rope.dim) == (6, 16, 16)
    assert (config.rope.theta, config.vocab_size) == (10000.0, 320)
    assert config.sliding_window is None


def test_a_gguf_may_turn_a_part_of_a_head() -> None:
    assert read("gguf", GGUF | {"llama.rope.dimension_count": 8}).rope.dim == 8


def test_stored_divisors_outrank_a_scaling_key() -> None:
    scaled = GGUF | {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}

    config = read("gguf", scaled, divisors=tuple(range(1, 9)))

    assert config.rope.frequency_divisors == (1, 2, 3, 4, 5, 6, 7, 8)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("hidden_size", "hidden_dim"),
        ("hidden_size", "n_embd"),
        ("num_layers", "num_hidden_layers"),
        ("num_heads", "n_heads"),
        ("intermediate_size", "ffn_dim"),
        ("max_position_embeddings", "context_length"),
        ("architecture", "model_type"),
    ],
)
def test_an_apr_may_use_upstreams_other_names(old: str, new: str) -> None:
    renamed = {new if key == old else key: value for key, value in APR.items()}

    assert read("apr", renamed) == read("apr", APR)


def test_an_apr_must_say_the_pairing() -> None:
    without = {key: value for key, value in APR.items() if key != "rope_type"}

    with pytest.raises(MissingConfigError) as caught:
        read("apr", without)

    assert str(caught.value) == (
        "error[APR-M003]: the file does not say rope_type\n"
        "  where     model.file\n"
        "  expected  rope_type\n"
        "  found     9 keys, none of these\n"
        "  try       `apr inspect` lists the keys; the converter left this one out"
    )


def test_another_pairing_is_refused() -> None:
    with pytest.raises(ConfigValueError) as caught:
        read("apr", APR | {"rope_type": 8})

    assert str(caught.value) == (
        "error[APR-M004]: an unknown pairing of RoPE\n"
        "  where     model.file, metadata key rope_type\n"
        "  expected  0 (adjacent pairs) or 2 (halves)\n"
        "  found     8\n"
        "  try       import the model again with `apr import`"
    )


def test_theta_is_read_where_newer_files_keep_it() -> None:
    config = read_hugging_face(rope_parameters={"rope_theta": 5e5, "rope_type": "default"})

    assert (config.rope.theta, config.rope.frequency_divisors) == (5e5, ())


def test_theta_outside_is_read_when_the_newer_object_lacks_it() -> None:
    config = read_hugging_face(rope_parameters={"rope_type": "default"}, rope_theta=5e5)

    assert config.rope.theta == 5e5


def test_the_config_says_which_projections_have_a_bias() -> None:
    config = read_hugging_face(attention_bias=True, mlp_bias=True)

    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (True, True, True)


def test_qwen2_has_its_biases_and_qwen3_its_norms_whatever_the_file_holds() -> None:
    """A file that lost them must then fail its inventory, not run as another model."""
    qwen2 = {key.replace("llama", "qwen2"): value for key, value in GGUF.items()}
    qwen3 = {key.replace("llama", "qwen3"): value for key, value in GGUF.items()}

    assert read("gguf", qwen2 | {"general.architecture": "qwen2"}).qkv_bias
    assert read("gguf", qwen3 | {"general.architecture": "qwen3"}).qk_norm
    assert not read("gguf", GGUF).qkv_bias


WINDOWS: dict[str, tuple[dict[str, object], int | None]] = {
    "mistral": ({"model_type": "mistral", "sliding_window": 5}, 5),
    "mistral, none": ({"model_type": "mistral", "sliding_window": None}, None),
    "llama has none": ({"sliding_window": 5}, None),
    "qwen2, off": ({"model_type": "qwen2", "sliding_window": 5}, None),
    "qwen2, from layer 28": (
        {"model_type": "qwen2", "sliding_window": 5, "use_sliding_window": True},
        None,
    ),
    "qwen2, from layer 0": (
        {
            "model_type": "qwen2",
            "sliding_window": 5,
            "use_sliding_window": True,
            "max_window_layers": 0,
        },
        5,
    ),
    "qwen3, by layer": (
        {
            "model_type": "qwen3",
            "sliding_window": 5,
            "use_sliding_window": True,
            "layer_types": ["sliding_attention", "sliding_attention"],
        },
        5,
    ),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_is_read_as_its_architecture_has_it(name: str) -> None:
    changes, window = WINDOWS[name]

    assert read_hugging_face(**changes).sliding_window == window


@pytest.mark.parametrize(
    "layers",
    [{"max_window_layers": 1}, {"layer_types": ["full_attention", "sliding_attention"]}],
)
def test_layers_may_differ_in_their_window(layers: dict[str, object]) -> None:
    config = read_hugging_face(
        model_type="qwen2", sliding_window=5, use_sliding_window=True, **layers
    )

    assert (config.window_of(0), config.window_of(1)) == (None, 5)
    assert config.global_layers == (0,)


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        (["full_attention"], "['full_attention']"),
        (["full_attention", "chunked"], "['full_attention', 'chunked']"),
        ("full", "'full'"),
    ],
)
@pytest.mark.parametrize("kind", ["safetensors", "apr"])
def test_a_list_of_layers_that_cannot_be_is_refused(
    kind: str, kinds: object, found: str
) -> None:
    windowed: dict[str, object] = {"sliding_window": 5, "layer_types": kinds}
    metadata = APR | windowed
    if kind == "safetensors":
        qwen2 = {"model_type": "qwen2", "use_sliding_window": True}
        metadata = {"config": HUGGING_FACE | qwen2 | windowed}

    with pytest.raises(ConfigValueError) as caught:
        read(kind, metadata)

    where = "model.file" + (", config.json" if kind == "safetensors" else "")
    assert str(caught.value) == (
        "error[APR-M004]: layer_types cannot be used\n"
        f"  where     {where}\n"
        "  expected  sliding_attention or full_attention for each of 2 layers\n"
        f"  found     {found}\n"
        "  try       compare with the model's original config.json"
    )


def test_llama3s_divisors_follow_metas_formula() -> None:
    """Wave lengths above 64 / 1 are slowed 8 times, those below 64 / 4 not at all."""
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }

    divisors = read_hugging_face(rope_scaling=scaling).rope.frequency_divisors

    waves = 2 * np.pi * 10000.0 ** (np.arange(8) / 8)  # 6.3, 19.9, 62.8, 199, ...
    blend = (64 / waves - 1) / 3
    expected = np.where(waves > 64, 8, np.where(waves < 16, 1, 1 / ((1 - blend) / 8 + blend)))
    assert divisors == pytest.approx(tuple(expected), rel=1e-14)
    assert divisors[0] == 1
    assert 1 < divisors[1] < divisors[2] < 8
    assert divisors[3:] == (8, 8, 8, 8, 8)


@pytest.mark.parametrize("kind", ["yarn", "dynamic", "longrope", "ntk"])
def test_another_scaling_is_refused(kind: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        read_hugging_face(rope_scaling={"type": kind, "factor": 2.0})

    assert str(caught.value) == (
        f"error[APR-M002]: no engine here knows the RoPE scaling '{kind}'\n"
        "  where     model.file, config.json, rope_scaling\n"
        "  expected  none, linear or llama3\n"
        f"  found     {kind}\n"
        "  try       a wrong scaling would give fluent nonsense, so it is refused"
    )


@pytest.mark.parametrize(
    ("changes", "expected", "found"),
    [
        ({"hidden_act": "gelu"}, "silu or swish", "'gelu'"),
        ({"partial_rotary_factor": 0.5}, "1", "0.5"),
        ({"hidden_act": ["silu"]}, "silu or swish", "['silu']"),
    ],
)
def test_another_layer_is_refused(
    changes: dict[str, object], expected: str, found: str
) -> None:
    with pytest.raises(ArchitectureError) as caught:
        read_hugging_face(**changes)

    assert str(caught.value) == (
        f"error[APR-M002]: no engine here runs this model with {next(iter(changes))} {found}\n"
        "  where     model.file, config.json\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        "  try       another activation or rotation would be another model"
    )


@pytest.mark.parametrize(
    ("kind", "metadata"),
    [
        ("gguf", GGUF | {"general.architecture": "gemma2"}),
        ("apr", APR | {"architecture": "gemma2"}),
        ("safetensors", {"config": HUGGING_FACE | {"model_type": "gemma2"}}),
    ],
)
def test_another_architecture_is_refused(kind: str, metadata: dict[str, object]) -> None:
    with pytest.raises(ArchitectureError) as caught:
        read(kind, metadata)

    where = "model.file" + (", config.json" if kind == "safetensors" else "")
    assert str(caught.value) == (
        "error[APR-M002]: no engine here runs the architecture 'gemma2'\n"
        f"  where     {where}\n"
        "  expected  llama, qwen2, qwen3, gemma3, mistral, gemma3_text\n"
        "  found     gemma2\n"
        "  try       `apr inspect` and `apr tensors` read any architecture"
    )


def test_weights_without_a_config_are_refused() -> None:
    with pytest.raises(MissingConfigError) as caught:
        read("safetensors", {})

    assert str(caught.value) == (
        "error[APR-M003]: safetensors hold weights only, and there is no config.json beside "
        "them\n"
        "  where     model.file\n"
        "  expected  a config.json in the same folder\n"
        "  found     none\n"
        "  try       open the folder that the model was saved to"
    )


@pytest.mark.parametrize("key", [*GGUF])
def test_a_key_that_a_gguf_must_have_is_named(key: str) -> None:
    with pytest.raises(MissingConfigError) as caught:
        read("gguf", {k: v for k, v in GGUF.items() if k != key})

    assert f"the file does not say {key}" in str(caught.value)


@pytest.mark.parametrize("key", [*HUGGING_FACE])
def test_a_key_that_a_config_must_have_is_named(key: str) -> None:
    config = {k: v for k, v in HUGGING_FACE.items() if k != key}

    with pytest.raises(MissingConfigError) as caught:
        read("safetensors", {"config": config})

    assert f"the file does not say {key}" in str(caught.value)


VALUES: dict[str, tuple[dict[str, object], str, str]] = {
    "no layers": ({"num_hidden_layers": 0}, "at least 1", "0"),
    "too many layers": ({"num_hidden_layers": 5000}, "at most 4096", "5000"),
    "a huge head": ({"head_dim": 1 << 40}, "at most 65536", "1099511627776"),
    "no heads": ({"num_attention_heads": 0}, "at least 1", "0"),
    "heads that do not divide": (
        {"num_key_value_heads": 4},
        "a divisor of the 6 query heads",
        "4",
    ),
    "no kv heads": ({"num_key_value_heads": 0}, "at least 1", "0"),
    "an odd head": ({"head_dim": 15}, "an even number in 2..15", "15"),
    "a negative width": ({"hidden_size": -96, "head_dim": 16}, "at least 1", "-96"),
    "eps 0": ({"rms_norm_eps": 0.0}, "a positive finite number", "0.0"),
    "eps below 0": ({"rms_norm_eps": -1e-5}, "a positive finite number", "-1e-05"),
    "theta 0": ({"rope_theta": 0}, "a positive finite number", "0.0"),
    "a window of 0": ({"model_type": "mistral", "sliding_window": 0}, "at least 1", "0"),
    "a width in words": ({"hidden_size": "96"}, "a whole number", "'96'"),
    "a width and a half": ({"hidden_size": 96.5}, "a whole number", "96.5"),
    "a width of true": ({"hidden_size": True}, "a whole number", "True"),
    "a width of 2^63": (
        {"hidden_size": 1 << 63},
        "a whole number of at most 63 bits",
        "9223372036854775808",
    ),
    "eps in words": ({"rms_norm_eps": "1e-5"}, "a number", "'1e-5'"),
    "eps of 400 digits": ({"rms_norm_eps": 10**400}, "a finite number", "1" + "0" * 59),
    "tied in words": ({"tie_word_embeddings": "yes"}, "true or false", "'yes'"),
    "a scaling of 0": (
        {"rope_scaling": {"type": "linear", "factor": 0}},
        "a positive finite number",
        "0.0",
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_cannot_be_is_refused_with_figures(name: str) -> None:
    changes, expected, found = VALUES[name]

    with pytest.raises(ConfigValueError) as caught:
        read_hugging_face(**changes)

    assert expected in caught.value.parts["expected"]
    assert caught.value.parts["found"] == found
    assert caught.value.parts["where"].startswith("model.file")


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"factor": 0}, "factor 0, low 1, high 4"),
        ({"factor": -8}, "factor -8, low 1, high 4"),
        ({"low_freq_factor": 4.0}, "factor 8, low 4, high 4"),
    ],
)
def test_figures_of_llama3_that_cannot_be_are_refused(
    changes: dict[str, object], found: str
) -> None:
    with pytest.raises(ConfigValueError) as caught:
        read_hugging_face(rope_scaling=LLAMA3 | changes)

    assert str(caught.value) == (
        "error[APR-M004]: the figures of llama3's RoPE scaling cannot be\n"
        "  where     model.file, config.json, rope_scaling\n"
        "  expected  a positive factor, and low_freq_factor below high_freq_factor\n"
        f"  found     {found}\n"
        "  try       compare with the model's original config.json"
    )


ODD = [None, True, -1, 0, 1, 2.5, 10**18, 10**400, 1e308, 5e-324, "x", [], {}, [1], {"a": []}]


@pytest.mark.parametrize("odd", ODD, ids=lambda v: f"{v!r:.12}")
def test_any_odd_value_is_refused_or_read_and_never_another_exception(odd: object) -> None:
    optional = {
        *("head_dim", "num_key_value_heads", "rope_theta", "rope_scaling", "rope_parameters"),
        *("sliding_window", "use_sliding_window", "max_window_layers", "layer_types"),
        *("tie_word_embeddings", "attention_bias", "mlp_bias", "hidden_act"),
        "partial_rotary_factor",
    }
    for model_type in ("llama", "mistral", "qwen2"):
        for key in HUGGING_FACE.keys() | optional:
            base = {"model_type": model_type, "use_sliding_window": True, "sliding_window": 4}
            try:
                read_hugging_face(**base | {key: odd})
            except CotejarError as error:
                assert error.code.startswith("APR-M")  # noqa: PT017
    for key in LLAMA3:
        for theta in (10000.0, -2.0, 0.0, 1e308):
            try:
                read_hugging_face(rope_scaling=LLAMA3 | {key: odd}, rope_theta=theta)
            except CotejarError as error:
                assert error.code.startswith("APR-M")  # noqa: PT017
    for key in GGUF.keys() | {"llama.rope.dimension_count", "llama.rope.scaling.factor"}:
        try:
            read("gguf", GGUF | {"llama.rope.scaling.type": "linear", key: odd})
        except CotejarError as error:
            assert error.code.startswith("APR-M")  # noqa: PT017


def test_a_gguf_with_a_head_of_4_gigabytes_makes_no_table(tiny: Any) -> None:
    """The sizes are checked before anything is made of them."""
    scaled = GGUF | {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}

    with pytest.raises(ConfigValueError, match="head_dim"):
        read("gguf", scaled | {"llama.embedding_length": 1 << 42})


def test_a_config_that_is_no_object_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_hugging_face(tmp_path / "tiny", TinyDecoder())
    (folder / "config.json").write_text(json.dumps([1]))

    with pytest.raises(CotejarError, match="the JSON is no object"):
        open_language_model(folder)


def test_a_gguf_keeps_its_float32_numbers(tiny: Any, tmp_path: Path) -> None:
    """eps is a float32 in a GGUF: 1e-5 comes back as the nearest float32, exactly."""
    model = tiny(TinyDecoder(rms_eps=1e-5))

    assert model.config.rms_eps == float(np.float32(1e-5))
    with open_gguf(model.file.path) as file:
        key = "llama.attention.layer_norm_rms_epsilon"
        assert file.typed_metadata[key] == GgufValue.encode(ValueType.FLOAT32, 1e-5)
