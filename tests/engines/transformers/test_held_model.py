"""`cotejar.trace` of a model that the caller holds in memory."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import cotejar
from cotejar.errors import (
    ArchitectureError,
    ContextLengthError,
    EmptyPromptError,
    EngineDataError,
    MissingExtraError,
    TokenIdError,
    UnknownSiteError,
    UsageError,
)
from cotejar.model.language_model import open_language_model
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_hugging_face
from cotejar.trace.forward_trace import Capture, ForwardTrace, Scope

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS = [5, 77, 300, 12]
GEMMA = TinyDecoder(architecture="gemma3", sliding_window=5, sliding_window_pattern=2)


def test_the_trace_says_what_ran(hold: Callable[..., Any]) -> None:
    trace = cotejar.trace(hold(attn_implementation="eager"), TOKENS, prompt="abcd")

    assert isinstance(trace, ForwardTrace)
    engine = trace.engine
    assert (engine.name, engine.numerics, engine.device) == ("transformers", "f32", "cpu")
    assert engine.build == (
        f"transformers {transformers.__version__}, torch {torch.__version__}, eager attention, "
        f"{torch.get_num_threads()} threads; LlamaForCausalLM as its caller holds it"
    )
    assert (trace.model.name, trace.model.format) == ("held", "transformers")
    assert (trace.token_ids, trace.positions) == ((5, 77, 300, 12), (0, 1, 2, 3))
    assert trace.prompt == "abcd"
    assert set(trace.arrays) == set(trace.sites)
    assert len(trace.sites) == 3 + 2 * 17


@pytest.mark.parametrize(
    ("name", "numerics", "tail"),
    [
        ("float64", "f64", "; norms and rotary tables in float32"),
        ("bfloat16", "bf16", "; norms and rotary tables in float32"),
        ("float32", "f32", "as its caller holds it"),
    ],
)
def test_the_type_of_the_weights_is_the_numerics(
    name: str, numerics: str, tail: str, hold: Callable[..., Any]
) -> None:
    model = hold(dtype=getattr(torch, name), attn_implementation="sdpa")

    trace = cotejar.trace(model, TOKENS)

    assert trace.engine.numerics == numerics
    assert trace.engine.build.endswith(tail)
    assert {record.dtype for record in trace.sites.values()} == {name}


def test_a_model_of_two_types_says_both(hold: Callable[..., Any]) -> None:
    model = hold()
    model.lm_head.to(torch.float64)
    model.lm_head.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))

    assert cotejar.trace(model, TOKENS).engine.numerics == "f32+f64"


@pytest.mark.parametrize(
    "decoder",
    [
        TinyDecoder(),
        TinyDecoder(tied_embeddings=True),
        TinyDecoder(architecture="qwen3"),
        GEMMA,
    ],
    ids=["llama", "tied", "qwen3", "gemma3"],
)
def test_identity_is_that_of_a_folder_with_the_same_weights(
    decoder: TinyDecoder, hold: Callable[..., Any], tmp_path: Path
) -> None:
    folder = write_tiny_hugging_face(tmp_path / "folder", decoder)
    expected = open_language_model(folder)
    model = hold(decoder)

    trace = cotejar.trace(model, TOKENS)

    assert trace.model.fingerprint == expected.fingerprint
    assert trace.config == expected.declared.config.comparable()
    # Every float32 is a float64, so the weights are still the same.
    assert cotejar.trace(model.double(), TOKENS).model.fingerprint == expected.fingerprint


def test_one_bit_of_one_weight_is_another_identity(hold: Callable[..., Any]) -> None:
    model = hold()
    before = cotejar.trace(model, TOKENS).model.fingerprint
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.view(torch.int32)[0, 0] ^= 1

    assert cotejar.trace(model, TOKENS).model.fingerprint != before


def test_weights_that_no_file_could_store_have_no_identity(hold: Callable[..., Any]) -> None:
    model = hold().double()
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-12

    assert cotejar.trace(model, TOKENS).model.fingerprint == ""


@pytest.mark.parametrize(
    "ids",
    [tuple(TOKENS), np.array(TOKENS), torch.tensor(TOKENS), torch.tensor([TOKENS]), [TOKENS]],
    ids=["tuple", "array", "tensor", "tensor of a row", "list of a row"],
)
def test_ids_come_as_tokenizers_give_them(ids: Any, hold: Callable[..., Any]) -> None:
    assert cotejar.trace(hold(), ids).token_ids == (5, 77, 300, 12)


@pytest.mark.parametrize(
    "ids",
    [
        torch.tensor([[1, 2], [3, 4]]),
        torch.tensor(5),
        np.array([1.0, 2.0]),
        5,
        None,
        "ab",
        b"ab",
        {1: 5},
        {1, 5},
        [True, False],
    ],
    ids=repr,
)
def test_what_is_no_list_of_ids_is_refused(ids: Any, hold: Callable[..., Any]) -> None:
    """Two texts at once, and what Python would take for numbers."""
    with pytest.raises(UsageError) as raised:
        cotejar.trace(hold(), ids)

    assert raised.value.problem == "these are no token ids"
    assert raised.value.parts == {
        "where": "token_ids",
        "expected": "a list of whole numbers, or a tensor of (tokens,) or (1, tokens)",
        "found": repr(ids),
        "try": "one text is traced at a time, and without padding",
    }


def test_autocast_is_part_of_the_numerics(hold: Callable[..., Any]) -> None:
    """Products are bfloat16 then, and no gate of float32 may judge them."""
    model = hold()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        engine = cotejar.trace(model, TOKENS).engine

    assert engine.numerics == "bf16+f32"
    assert "as its caller holds it and under its autocast; norms" in engine.build
    assert cotejar.trace(model, TOKENS).engine.numerics == "f32"


def test_a_compiled_model_is_refused_before_it_runs(hold: Callable[..., Any]) -> None:
    with pytest.raises(ArchitectureError) as raised:
        cotejar.trace(torch.compile(hold()), TOKENS)

    assert raised.value.problem == (
        "the parameters of OptimizedModule have names that are not known"
    )
    assert raised.value.parts == {
        "where": "torch._dynamo.eval_frame.OptimizedModule",
        "expected": "model.embed_tokens.weight",
        "found": "21 parameters, the first is _orig_mod.model.embed_tokens.weight",
        "try": "give the model that transformers made, not what wraps it: not what "
        "torch.compile returned",
    }


def test_a_model_without_values_is_refused(hold: Callable[..., Any]) -> None:
    model = hold().to("meta")

    with pytest.raises(EngineDataError) as raised:
        cotejar.trace(model, TOKENS)

    assert raised.value.parts["where"] == "embed"
    assert raised.value.parts["found"] == (
        "(1, 4, 96) on the device meta, which holds no values"
    )


def test_a_hook_that_takes_the_logits_out_of_the_output_changes_nothing(
    hold: Callable[..., Any],
) -> None:
    model = hold()
    model.register_forward_hook(lambda _module, _inputs, output: output.logits)

    assert cotejar.trace(model, TOKENS).sites["logits"].shape == (4, 320)


@pytest.mark.parametrize(
    ("ids", "error"),
    [([], EmptyPromptError), ([320], TokenIdError), ([1] * 65, ContextLengthError)],
)
def test_ids_that_cannot_be_run_are_refused(
    ids: list[int], error: type[Exception], hold: Callable[..., Any]
) -> None:
    with pytest.raises(error):
        cotejar.trace(hold(), ids)


def test_arrays_are_kept_as_asked_for(hold: Callable[..., Any]) -> None:
    model = hold()

    assert set(cotejar.trace(model, TOKENS, capture="logits,ffn_gate").arrays) == {
        "layer.0.ffn_gate",
        "layer.1.ffn_gate",
        "logits",
    }
    only_last = cotejar.trace(model, TOKENS, capture=Capture(scopes=(Scope.LAST,)))
    assert not only_last.arrays
    assert only_last.sites["logits"].shape == (1, 320)
    with pytest.raises(UnknownSiteError):
        cotejar.trace(model, TOKENS, capture="ffn_gat")


def test_an_architecture_with_the_same_names_and_other_norms_is_refused() -> None:
    """OLMo's modules are called as Llama's, and its norms are no RMSNorms."""
    config = transformers.OlmoConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
    )
    model = transformers.OlmoForCausalLM(config)

    with pytest.raises(ArchitectureError) as raised:
        cotejar.trace(model, TOKENS)

    assert raised.value.problem == "no engine here runs the architecture 'olmo'"


def test_layers_without_a_configuration_are_refused(hold: Callable[..., Any]) -> None:
    model = hold()
    bare = torch.nn.Module()
    bare.model, bare.lm_head = model.model, model.lm_head

    with pytest.raises(ArchitectureError) as raised:
        cotejar.trace(bare, TOKENS)

    assert raised.value.problem == "Module has no configuration"
    assert raised.value.parts == {
        "where": "Module",
        "expected": "a transformers model with a config",
        "found": "no config.to_dict",
        "try": "give the model that transformers made, not what wraps it",
    }


def test_the_function_is_a_room_too_and_loads_nothing() -> None:
    code = (
        "import sys, cotejar\n"
        "assert callable(cotejar.trace)\n"
        "import cotejar.trace.site\n"
        "assert callable(cotejar.trace) and cotejar.trace.site.Site\n"
        "print(sorted({'numpy', 'torch', 'transformers'} & sys.modules.keys()))\n"
    )

    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stderr


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = cotejar.importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "torch" else find_spec(name)
    )

    with pytest.raises(MissingExtraError) as raised:
        cotejar.trace(object(), TOKENS)

    assert str(raised.value) == (
        "error[APR-U006]: the engine transformers is not installed\n"
        "  where     engine transformers\n"
        "  expected  the package torch\n"
        "  found     no such package in this Python\n"
        "  try       pip install 'cotejar[transformers]'"
    )
