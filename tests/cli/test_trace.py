"""`apr trace` from the outside: both formats, both scopes, files, and refusals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from cotejar.model.language_model import open_language_model
from cotejar.trace.site import CAPTURE_POINTS, CONTRACT_SLOTS, SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Done

    Run = Callable[..., Done]

TOKENS = "5,77,300"
GATES = {"layer.0.ffn_gate", "layer.1.ffn_gate"}
WIDTHS = {**dict.fromkeys(CONTRACT_SLOTS, 96), "qkv": 96 + 32 + 32} | dict.fromkeys(
    ["ffn_gate", "ffn_up", "ffn_silu_gate", "ffn_swiglu_inner"], 160
)


@pytest.fixture(params=["gguf", "apr"])
def model(request: pytest.FixtureRequest, tiny_gguf: Path, tiny_apr: Path) -> Path:
    """The same model in both formats."""
    return tiny_gguf if request.param == "gguf" else tiny_apr


def layers_of(text: str) -> dict[str, list[str]]:
    """The lines below each layer's heading."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("Layer "):
            found[line] = rows = []
        elif found and line.startswith("    "):
            rows.append(line)
    return found


def parse(text: str) -> dict[str, object]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


# --- text ----------------------------------------------------------------------------------


def test_every_layer_has_ten_lines_with_the_counts_of_both_scopes(
    run_apr: Run, model: Path
) -> None:
    done = run_apr("trace", model, "--payload", "--tokens", TOKENS)

    assert (done.code, done.err) == (0, "")
    layers = layers_of(done.out)
    assert list(layers) == ["Layer  0/2 [OK]", "Layer  1/2 [OK]"]
    for rows in layers.values():
        assert [row.split(":")[0].strip() for row in rows] == list(CONTRACT_SLOTS)
        for row, width in zip(rows, WIDTHS.values(), strict=True):
            every, last = row.split(" | ")
            assert f" all n={3 * width} mean=" in every
            assert f"last n={width} mean=" in last
            assert every.count("std=") == last.count("std=") == 1


def test_both_formats_give_the_same_numbers(
    run_apr: Run, tiny_gguf: Path, tiny_apr: Path
) -> None:
    gguf, apr = (
        run_apr("trace", path, "--payload", "--tokens", TOKENS).out.splitlines()
        for path in (tiny_gguf, tiny_apr)
    )

    differing = [a for a, b in zip(gguf, apr, strict=True) if a != b]
    assert [line.split()[0] for line in differing] == ["Format:", tiny_gguf.name + ","]


def test_the_headings_are_upstreams(run_apr: Run, tiny_gguf: Path) -> None:
    lines = run_apr("trace", tiny_gguf, "--payload", "--prompt", "hello").out.splitlines()

    ids = open_language_model(tiny_gguf).tokenizer.encode("hello")
    assert lines[0] == "Traced Inference (APR-TRACE-001)"
    wanted = [
        "Test prompt: hello",
        f"Encoded tokens: {ids}",
        "FORWARD PASS (with layer tracing):",
        "LAYER-BY-LAYER ACTIVATIONS:",
        "Top 5 predictions:",
        "TRACE SUMMARY",
    ]
    assert [line for line in lines if line in wanted] == wanted
    for title in ("EMBEDDING", "FINAL LAYER NORM", "LM_HEAD"):
        assert [line.partition(":")[0] for line in lines if line.startswith(title)] == [
            f"{title} (all)",
            f"{title} (last)",
        ]


def test_the_best_predictions_are_of_the_last_token(run_apr: Run, tiny_gguf: Path) -> None:
    flags = ["--payload", "--tokens", TOKENS]
    facts = parse(run_apr("trace", tiny_gguf, *flags, "--json").out)
    lines = run_apr("trace", tiny_gguf, *flags).out.splitlines()

    at = lines.index("Top 5 predictions:")
    top = facts["logits"]["top_k"]
    tokenizer = open_language_model(tiny_gguf).tokenizer
    assert lines[at + 1 : at + 6] == [
        f"  {n}. token_id={t['token_id']}, logit={t['logit']:.4f}"
        f"  {tokenizer.token_text(t['token_id'])!r}"
        for n, t in enumerate(top, 1)
    ]
    assert [t["logit"] for t in top] == sorted((t["logit"] for t in top), reverse=True)


def test_the_best_predictions_are_shown_whatever_is_captured(
    run_apr: Run, tiny_gguf: Path
) -> None:
    flags = ["--payload", "--tokens", TOKENS]

    plain = run_apr("trace", tiny_gguf, *flags)
    captured = run_apr("trace", tiny_gguf, *flags, "--capture", "ffn_gate")

    assert "Top 5 predictions:\n  1. token_id=" in plain.out
    assert captured == plain


def test_brief_is_the_summary_alone(run_apr: Run, tiny_gguf: Path) -> None:
    done = run_apr("trace", tiny_gguf, "--payload", "--tokens", TOKENS, "--brief")

    assert done.out == (
        "TRACE SUMMARY\n"
        "  tiny.gguf, native+q8: 37 sites, scope all and last, 3 tokens, std with ddof 1\n"
        "  every value is finite\n"
    )


@pytest.mark.parametrize("scope", ["all", "last"])
def test_one_scope_alone(run_apr: Run, tiny_gguf: Path, scope: str) -> None:
    flags = ["--payload", "--tokens", TOKENS, "--scope", scope]

    rows = layers_of(run_apr("trace", tiny_gguf, *flags).out)["Layer  0/2 [OK]"]

    count = 96 * (3 if scope == "all" else 1)
    assert f" {scope} n={count} mean=" in rows[0]
    assert " | " not in rows[0]


@pytest.mark.parametrize(
    ("layer", "headings"),
    [("1", ["Layer  1/2 [OK]"]), ("0..1", ["Layer  0/2 [OK]", "Layer  1/2 [OK]"])],
)
def test_only_the_layers_asked_for(
    run_apr: Run, tiny_gguf: Path, layer: str, headings: list[str]
) -> None:
    done = run_apr("trace", tiny_gguf, "--payload", "--tokens", TOKENS, "--layer", layer)

    assert list(layers_of(done.out)) == headings


# --- without a run ---------------------------------------------------------------------------


def test_without_payload_nothing_is_run(run_apr: Run, model: Path) -> None:
    done = run_apr("trace", model)

    assert (done.code, done.err) == (0, "")
    pairing = "adjacent"  # the import leaves every row where it was
    assert done.out == (
        "Architecture: llama, 2 layers, hidden 96, 6 heads, 2 kv heads, head size 16, "
        "ffn 160, vocab 320\n"
        f"RoPE theta 10000, pairs {pairing}; norm eps 0.000977; context 64\n"
        "No statistics: --payload runs the model.\n"
    )


def test_without_payload_the_json_has_no_statistic(run_apr: Run, model: Path) -> None:
    facts = parse(run_apr("trace", model, "--json").out)

    assert facts == {
        "format": model.suffix[1:],
        "architecture": "llama",
        "num_layers": 2,
        "hidden_dim": 96,
        "vocab_size": 320,
        "num_heads": 6,
        "num_kv_heads": 2,
        "rope_theta": 10000.0,
        "stats_source": "metadata-only",
        **dict.fromkeys(
            ["prompt", "encoded_tokens", "embedding", "final_norm", "logits_stats", "logits"]
        ),
        "layers": [{"layer_idx": n} | dict.fromkeys(SLOTS) for n in range(2)],
    }


@pytest.mark.parametrize(
    "option",
    [
        ["--prompt", ""],
        ["--tokens", "1"],
        ["--layer", "0"],
        ["--scope", "all"],
        ["--capture", "all"],
    ],
)
def test_what_only_a_run_can_do_needs_payload(
    run_apr: Run, tiny_gguf: Path, option: list[str]
) -> None:
    done = run_apr("trace", tiny_gguf, *option)

    assert (done.code, done.out) == (2, "")
    assert done.err.endswith(
        "Error: --prompt, --tokens, --decode, --layer, --scope and --capture need --payload\n"
    )


# --- JSON ------------------------------------------------------------------------------------


def test_the_json_has_every_slot_with_its_scopes(run_apr: Run, model: Path) -> None:
    facts = parse(run_apr("trace", model, "--payload", "--tokens", TOKENS, "--json").out)

    assert (facts["num_layers"], facts["hidden_dim"], facts["vocab_size"]) == (2, 96, 320)
    assert (facts["num_heads"], facts["num_kv_heads"]) == (6, 2)
    assert (facts["prompt"], facts["encoded_tokens"]) == (None, [5, 77, 300])
    assert (facts["format"], facts["stats_source"]) == (model.suffix[1:], "forward-pass")
    assert [layer["layer_idx"] for layer in facts["layers"]] == [0, 1]
    for layer in facts["layers"]:
        for slot, width in WIDTHS.items():
            found = layer[slot]
            assert (found["scope"], found["ddof"], found["count"]) == ("all", 1, 3 * width)
            assert found["capture_point"] == CAPTURE_POINTS[slot]
            assert found["scopes"]["last"]["count"] == width
            assert found["scopes"]["all"]["std_dev"] == found["std_dev"] > 0
            keys = "min max mean std_dev rms nan_count inf_count zero_count count"
            assert set(keys.split()) == set(found["scopes"]["last"])
    assert facts["logits"]["vocab_size"] == 320
    assert facts["logits_stats"]["count"] == 960
    assert facts["embedding"]["count"] == facts["final_norm"]["count"] == 288


def test_the_json_is_the_same_for_both_formats(
    run_apr: Run, tiny_gguf: Path, tiny_apr: Path
) -> None:
    gguf, apr = (
        parse(run_apr("trace", path, "--payload", "--tokens", TOKENS, "--json").out)
        for path in (tiny_gguf, tiny_apr)
    )

    assert [key for key in gguf if gguf[key] != apr[key]] == ["format", "manifest"]
    assert gguf.keys() == apr.keys()
    manifests = gguf["manifest"], apr["manifest"]
    assert [k for k in manifests[0] if manifests[0][k] != manifests[1][k]] == ["model"]


def test_the_manifest_says_what_was_recorded(run_apr: Run, tiny_gguf: Path) -> None:
    manifest = parse(
        run_apr("trace", tiny_gguf, "--payload", "--tokens", TOKENS, "--json").out
    )["manifest"]

    assert (manifest["token_ids"], manifest["positions"]) == ([5, 77, 300], [0, 1, 2])
    assert manifest["sites"][1] == {
        "site": "layer.0.attn_norm",
        "scopes": ["all", "last"],
        "capture_point": CAPTURE_POINTS["attn_norm"],
        "dtype": "float32",
        "shape": [3, 96],
    }
    assert len(manifest["sites"]) == 37


# --- files -----------------------------------------------------------------------------------


def test_a_trace_file_can_be_shown_again(run_apr: Run, tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    flags = ["--payload", "--prompt", "hello", "--capture", "all", "-o", path]
    made = run_apr("trace", tiny_gguf, *flags)
    as_json = parse(run_apr("trace", tiny_gguf, *flags, "--force", "--json").out)

    again = run_apr("trace", f"recorded:{path}")

    assert (made.code, again.code) == (0, 0)
    # The model is not there: its shape and the tokens' texts are not known.
    assert layers_of(again.out) == layers_of(made.out)
    assert set(again.out.splitlines()) - set(made.out.splitlines()) == {
        f"  {n}. token_id={t['token_id']}, logit={t['logit']:.4f}"
        for n, t in enumerate(as_json["logits"]["top_k"], 1)
    }
    recorded = parse(run_apr("trace", f"recorded:{path}", "--json").out)
    assert recorded.keys() == as_json.keys()
    assert recorded["manifest"] == as_json["manifest"]
    # A standard deviation is stored, its square is not: the last bits of rms may move.
    found, wanted = (facts["layers"][1]["qkv"]["scopes"] for facts in (recorded, as_json))
    for scope in ("all", "last"):
        assert found[scope] == pytest.approx(wanted[scope], rel=1e-14)


def test_a_trace_file_holds_what_capture_names(
    run_apr: Run, tiny_gguf: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run.trace"
    flags = ["--tokens", TOKENS, "--capture", "ffn_silu,logits", "--layer", "1", "-o", path]

    done = run_apr("trace", tiny_gguf, *flags)

    assert done.code == 0  # a file is asked for: that is a run
    arrays = load_file(path)
    assert set(arrays) == {"stats", "layer.1.ffn_silu_gate", "logits"}
    assert arrays["layer.1.ffn_silu_gate"].shape == (3, 160)
    assert arrays["logits"].dtype == np.float32
    with safe_open(path, framework="numpy") as file:
        assert json.loads(file.metadata()["cotejar.trace"])["token_ids"] == [5, 77, 300]


def test_a_trace_file_holds_no_array_unasked(
    run_apr: Run, tiny_gguf: Path, tmp_path: Path
) -> None:
    for name, flags, arrays in (
        ("plain", [], {"stats"}),
        ("gate", ["--capture", "ffn_gate"], {"stats", *GATES}),
        ("logits", ["--capture", "logits"], {"stats", "logits"}),
    ):
        path = tmp_path / name

        assert run_apr("trace", tiny_gguf, "--tokens", TOKENS, *flags, "-o", path).code == 0
        assert load_file(path).keys() == arrays


def test_a_file_that_is_there_is_kept_unless_forced(
    run_apr: Run, tiny_gguf: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run.trace"
    path.write_text("precious")
    flags = ["--tokens", TOKENS, "-o", path]

    refused = run_apr("trace", tiny_gguf, *flags)
    kept = path.read_text()
    forced = run_apr("trace", tiny_gguf, *flags, "--force")

    assert (refused.code, refused.out, kept) == (2, "", "precious")
    assert refused.err == (
        "error[APR-F006]: the output is there already\n"
        f"  where     {path}\n"
        "  expected  no file of that name\n"
        "  found     a file of 8 bytes\n"
        "  try       name another output, or allow it to be replaced with --force\n"
    )
    assert forced.code == 0
    assert run_apr("trace", f"recorded:{path}").code == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_recorded_trace_is_shown_whole(run_apr: Run) -> None:
    for option in (["--layer", "0"], ["--scope", "all"], ["--capture", "all"]):
        done = run_apr("trace", "recorded:run.trace", *option)

        assert done.code == 2
        assert done.err.endswith(
            "Error: --decode, --layer, --scope and --capture say what to record; a recorded "
            "trace is shown whole\n"
        )


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["none.gguf"], "error[APR-F002]"),
        (["none.gguf", "--payload"], "error[APR-F002]"),
        (["/"], "error[APR-F003]"),
        ([__file__], "error[APR-F011]"),
        (["recorded:none.trace"], "error[APR-F002]"),
        (["recorded:MODEL"], "error[APR-R001]"),
        (["recorded:MODEL", "--prompt", "x"], "error[APR-U001]: a recorded trace has its"),
        (["MODEL", "--payload", "--prompt", ""], "error[APR-U002]: the prompt is empty"),
        (["MODEL", "--payload", "--tokens", "320"], "error[APR-U003]: token id 320 is not"),
        (["MODEL", "--payload", "--tokens", "1," * 64 + "1"], "error[APR-U004]: the text is"),
        (["MODEL", "--payload", "--capture", "ffn_upp"], "error[APR-U007]: 'ffn_upp' names no"),
        (["MODEL", "--payload", "--capture", ","], "error[APR-U001]: no array is named"),
        (["MODEL", "--payload", "--capture", ""], "error[APR-U001]: no array is named"),
        (["MODEL", "--payload", "--layer", "2"], "error[APR-U001]: '2' names no layer"),
        (
            ["MODEL", "--payload", "--tokens", "1", "--prompt", "x"],
            "error[APR-U001]: a prompt is given twice",
        ),
        (
            ["MODEL", "--tokens", "1", "-o", "/none/run.trace"],
            "error[APR-F002]: the folder to write in is not there",
        ),
    ],
)
def test_bad_input_is_one_error_and_no_output(
    run_apr: Run, tiny_gguf: Path, args: list[str], problem: str
) -> None:
    done = run_apr("trace", *[arg.replace("MODEL", str(tiny_gguf)) for arg in args])

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(problem)
    assert len(done.err.splitlines()) == 5


@pytest.mark.parametrize(
    "tokens", ["", "x", "-1", "1,,2", "1.5", "²", "2147483648", "0" * 5000, "9" * 5000]
)
def test_ids_are_whole_numbers(run_apr: Run, tiny_gguf: Path, tokens: str) -> None:
    done = run_apr("trace", tiny_gguf, "--payload", "--tokens", tokens)

    assert (done.code, done.out) == (2, "")
    part = "" if tokens == "1,,2" else tokens[:40]
    assert done.err.endswith(
        "Error: Invalid value for '--tokens': "
        f"{part!r} is no token id; give ids like 3838,374,220\n"
    )


@pytest.mark.parametrize("tokens", ["5,77,300", "[5, 77, 300]", " 5 ,77, 300 "])
def test_ids_may_be_pasted_as_they_were_printed(
    run_apr: Run, tiny_gguf: Path, tokens: str
) -> None:
    done = run_apr("trace", tiny_gguf, "--payload", "--tokens", tokens, "--json")

    assert parse(done.out)["encoded_tokens"] == [5, 77, 300]


def test_help_shows_its_examples_line_by_line(run_apr: Run) -> None:
    out = run_apr("trace", "--help").out

    assert '  apr trace demo:smollm2 --payload --prompt "What is 2+2?"\n' in out
    assert "  apr trace oracle:model.apr --capture all -o run.trace\n" in out
