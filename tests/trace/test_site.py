"""Names of sites, slots, scopes and captures."""

from __future__ import annotations

import pytest

from cotejar.errors import UnknownSiteError, UsageError
from cotejar.trace.forward_trace import (
    EVERY_ARRAY,
    Scope,
    parse_capture,
    parse_scopes,
)
from cotejar.trace.site import (
    CAPTURE_POINTS,
    CONTRACT_SLOTS,
    FORMER_CAPTURE_POINTS,
    OPTIONAL_SLOTS,
    SLOTS,
    Site,
    current_capture_point,
    parse_site,
    parse_slot,
)


def layer_sites(*layers: int) -> list[str]:
    """Every slot of these layers."""
    return [f"layer.{layer}.{slot}" for layer in layers for slot in SLOTS]


@pytest.mark.parametrize("name", ["embed", "final_norm", "logits", *layer_sites(0, 27, 999999)])
def test_a_name_is_read_back(name: str) -> None:
    assert str(parse_site(name)) == name


@pytest.mark.parametrize(
    ("alias", "slot"), [("ffn_swigl", "ffn_swiglu_inner"), ("ffn_silu", "ffn_silu_gate")]
)
def test_an_alias_is_read_and_never_written(alias: str, slot: str) -> None:
    assert parse_slot(alias) == slot
    assert str(parse_site(f"layer.3.{alias}")) == f"layer.3.{slot}"
    assert alias not in CAPTURE_POINTS


@pytest.mark.parametrize(
    "name",
    [
        *("", "layer", "layer.3", "layer.3.", "layer.03.ffn_gate", "layer.-1.ffn_gate"),
        *("layer.1000000.ffn_gate", "layer.3.logits", "layer.3.embed", "ffn_gate"),
        *("Embed", "logits ", "layer.3.ffn_gate\n", "layer.\u0663.ffn_gate"),
    ],
)
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(UnknownSiteError):
        parse_site(name)


def test_the_message_names_what_there_is() -> None:
    with pytest.raises(UnknownSiteError) as caught:
        parse_site("blk.3.ffn_gate")

    assert str(caught.value) == (
        "error[APR-U007]: 'blk.3.ffn_gate' names no site\n"
        "  where     site name\n"
        "  expected  embed, layer.N.SLOT, final_norm or logits\n"
        "  found     blk.3.ffn_gate\n"
        "  try       slots: attn_norm q k v qkv q_rope k_rope attn_context attn_out "
        "attn_post_norm attn_residual ffn_norm ffn_gate ffn_up ffn_silu_gate ffn_swiglu_inner "
        "ffn_out ffn_post_norm output"
    )


def test_sites_sort_as_data_flows() -> None:
    names = ["embed", *layer_sites(0, 1, 10), "final_norm", "logits"]

    assert sorted(sorted(names), key=lambda name: parse_site(name).order) == names


def test_the_contracts_slots_are_in_the_order_of_the_flow() -> None:
    assert [slot for slot in SLOTS if slot in CONTRACT_SLOTS] == list(CONTRACT_SLOTS)
    assert len(CONTRACT_SLOTS) == 10
    assert not OPTIONAL_SLOTS & {*CONTRACT_SLOTS}


@pytest.mark.parametrize("text", FORMER_CAPTURE_POINTS)
def test_a_former_text_is_read_as_todays_of_its_slot(text: str) -> None:
    assert text not in CAPTURE_POINTS.values()
    assert current_capture_point(text) == CAPTURE_POINTS[FORMER_CAPTURE_POINTS[text]]


@pytest.mark.parametrize("text", ["", "elsewhere", *CAPTURE_POINTS.values()])
def test_any_other_text_stays(text: str) -> None:
    assert current_capture_point(text) == text


@pytest.mark.parametrize(
    ("text", "scopes"),
    [("all", [Scope.ALL]), ("last", [Scope.LAST]), ("both", [Scope.ALL, Scope.LAST])],
)
def test_scopes_are_read(text: str, scopes: list[Scope]) -> None:
    assert list(parse_scopes(text)) == scopes


def test_another_scope_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        parse_scopes("first")

    assert str(caught.value) == (
        "error[APR-U001]: 'first' is no scope\n"
        "  where     scope\n"
        "  expected  all, last or both\n"
        "  found     first\n"
        "  try       a scope says which token positions a statistic covers"
    )


def test_a_capture_is_all_or_a_list_of_slots() -> None:
    assert parse_capture("all") == EVERY_ARRAY
    assert parse_capture("logits, ffn_swigl ,embed,") == {"logits", "ffn_swiglu_inner", "embed"}


def test_an_unknown_slot_to_capture_is_refused() -> None:
    with pytest.raises(UnknownSiteError):
        parse_capture("logits,ffn_gat")


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_a_capture_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_capture(text)

    assert str(caught.value) == (
        "error[APR-U001]: no array is named\n"
        "  where     --capture\n"
        "  expected  all, or of: embed attn_norm q k v qkv q_rope k_rope attn_context attn_out "
        "attn_post_norm attn_residual ffn_norm ffn_gate ffn_up ffn_silu_gate ffn_swiglu_inner "
        "ffn_out ffn_post_norm output final_norm logits\n"
        f"  found     {text!r}\n"
        "  try       leave --capture out to keep statistics only"
    )


def test_a_site_is_equal_by_value() -> None:
    assert Site("ffn_gate", 3) == parse_site("layer.3.ffn_gate")
