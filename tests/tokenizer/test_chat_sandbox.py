"""Templates that reach outside, or that would run or grow without end, are stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cotejar.errors import ChatTemplateError
from cotejar.tokenizer import chat_sandbox
from cotejar.tokenizer.chat import render_chat

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.tokenizer.spec import TokenizerSpec

    Maker = Callable[..., TokenizerSpec]

BIG = "{% set big = 'b' * 1000000 %}"


def failure_of(make: Maker, template: str) -> str:
    spec = replace(make(), chat_template=template)
    with pytest.raises(ChatTemplateError) as caught:
        render_chat(spec, [{"role": "user", "content": "hi"}])
    return caught.value.parts["found"]


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''['__class__'].mro() }}",
        "{{ messages.__class__.mro() }}",
        "{{ (messages | map('attr', '__class__') | list)[0] }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ strftime_now.__self__.now() }}",
        "{{ '{0.__class__.mro}'.format('')() }}",
        "{{ namespace.__init__.__globals__.json }}",
        "{{ self.__init__.__globals__.json }}",
        "{{ dict.__subclasses__() }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ namespace(__wrapped__=1) }}",
    ],
)
def test_no_way_leads_out(bpe_spec: Maker, template: str) -> None:
    found = failure_of(bpe_spec, template)

    assert any(word in found for word in ("unsafe", "undefined", "no attribute", "No filter"))


def test_loops_within_loops_are_counted(bpe_spec: Maker) -> None:
    loop = "{% for i in range(1000) %}"
    template = loop * 3 + "{% endfor %}" * 3

    assert failure_of(bpe_spec, template) == "it takes more than 250000 steps"


def test_a_recursive_loop_and_a_recursive_macro_end(bpe_spec: Maker) -> None:
    for template in (
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    ):
        assert failure_of(bpe_spec, template).startswith("RecursionError: ")


def test_macros_that_call_twice_are_counted(
    bpe_spec: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_sandbox, "MAX_STEPS", 2000)
    template = (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
        "{{ f(50) }}"
    )

    assert failure_of(bpe_spec, template) == "it takes more than 2000 steps"


def test_the_clock_ends_a_template(bpe_spec: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_sandbox, "MAX_SECONDS", -1.0)

    assert failure_of(bpe_spec, "{{ 1 }}") == "it takes longer than -1 s"


def test_a_range_has_a_limit(bpe_spec: Maker) -> None:
    assert failure_of(bpe_spec, "{% for i in range(10 ** 9) %}{% endfor %}") == (
        "OverflowError: Range too big. The sandbox blocks ranges larger than"
        " MAX_RANGE (100000)."
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10 ** 9 }}",
        "{{ 10 ** 9 * 'a' }}",
        "{{ [1] * 10 ** 9 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:>{w}}'.format(1, w=1000000000) }}",
        "{{ 'a'.ljust(10 ** 9) }}",
        "{{ 'a' | center(10 ** 9) }}",
        "{{ 'a\n' | indent(10 ** 9) }}",
        "{{ 1.5 | round(10 ** 9) }}",
        "{{ [1] | batch(10 ** 9, 0) | list }}",
        BIG + "{{ big.replace('b', big) }}",
        BIG + "{{ big | replace('b', big) }}",
        BIG + "{{ big.join(big) }}",
        BIG + "{{ big | join(big) }}",
        BIG + "{{ '{0}{0}{0}'.format(big) }}",
        BIG + "{% set x = big ~ big %}",
        BIG + "{% set x = big + big %}",
        BIG + "{% set x = [big, big] %}",
        BIG + "{% set x = {'a': big, 'b': big} %}",
        "{% set n = namespace(x=[0]) %}"
        "{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}",
        "{% set n = namespace(x=[0]) %}"
        "{% for i in range(60) %}{% set n.x = (n.x, n.x) %}{% endfor %}",
        "{% set n = namespace(x='ab') %}"
        "{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{{ range(90000) | list | tojson(indent=20) }}",
    ],
)
def test_a_value_of_absurd_size_is_not_made(bpe_spec: Maker, template: str) -> None:
    found = failure_of(bpe_spec, template)

    assert found.startswith("it makes a value of size ")
    assert found.endswith("; 1048576 is the limit")


def test_a_method_that_no_chat_needs_is_refused(bpe_spec: Maker) -> None:
    assert failure_of(bpe_spec, "{{ 'a\t'.expandtabs(9) }}") == (
        "it calls 'expandtabs', which no chat needs"
    )


def test_lists_in_lists_have_a_limit(bpe_spec: Maker) -> None:
    template = (
        "{% set n = namespace(x=[]) %}"
        "{% for i in range(100) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}"
    )

    assert failure_of(bpe_spec, template) == "it makes lists more than 64 levels deep"


def test_a_namespace_that_holds_itself_is_short(bpe_spec: Maker) -> None:
    template = (
        "{% set n = namespace() %}{% set n.a = n %}{% set n.b = n %}"
        "{{ n }}{{ raise_exception('done') }}"
    )

    assert failure_of(bpe_spec, template) == "done"


def test_the_output_has_a_limit(bpe_spec: Maker) -> None:
    template = BIG + "{% for i in range(2) %}{{ big }}{% endfor %}"

    assert failure_of(bpe_spec, template) == "it writes more than 1048576 characters"


@pytest.mark.parametrize("written", ["{{ big }}", "b" * 100_000])
def test_captured_text_has_a_limit(bpe_spec: Maker, written: str) -> None:
    loop = "{% for i in range(1000) %}" + written + "{% endfor %}"
    template = BIG + "{% set text %}" + loop + "{% endset %}"

    assert failure_of(bpe_spec, template) == "it writes more than 67108864 characters"


def test_a_template_nested_beyond_reason_is_refused(bpe_spec: Maker) -> None:
    template = "{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}"

    assert failure_of(bpe_spec, template).startswith("RecursionError: ")
