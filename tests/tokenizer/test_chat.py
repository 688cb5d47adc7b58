"""Chat templates: what is rendered, what is refused, and the ids of a question."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from cotejar.errors import ChatTemplateError
from cotejar.tokenizer.chat import (
    MAX_TEMPLATE_CHARS,
    apply_chat,
    encode_chat,
    render_chat,
)
from cotejar.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.tokenizer.spec import TokenizerSpec

    Maker = Callable[..., TokenizerSpec]

CONTROL = 3
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<b>é"}]
NOW = datetime(2026, 2, 3, tzinfo=UTC)


def render(make: Maker, template: str, **options: bool) -> str:
    spec = replace(make(tokens={"<s>": CONTROL}, bos_token_id=256), chat_template=template)
    return render_chat(spec, TURNS, now=NOW, **options)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ bos_token }}{{ eos_token }}|", "<s>|"),
        ("{% for m in messages %}\n  {{ m.role }}\n{% endfor %}", "  user\n  assistant\n"),
        (
            "{% if add_generation_prompt %}\n  {% if true %}\n go\n  {% endif %}\n{% endif %}",
            " go\n",
        ),
        ("{{ messages[1] | tojson }}", '{"role": "assistant", "content": "<b>é"}'),
        (
            "{{ {'b': [1], 'a': 2} | tojson(indent=1, sort_keys=true) }}",
            '{\n "a": 2,\n "b": [\n  1\n ]\n}',
        ),
        ("{{ strftime_now('%d %b %Y') }}", "03 Feb 2026"),
        (
            "{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "01",
        ),
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}", "<b>é"),
        (
            "{% set n = namespace(x=1) %}"
            "{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}{{ n.x }}",
            "3",
        ),
        ("{{ messages | map(attribute='role') | join('+') }}", "user+assistant"),
        ("{{ 'a' ~ 1 ~ none }}{{ 'ab' * 2 }}{{ '%s-%02d' % ('c', 3) }}", "a1Noneababc-03"),
        ("{{ 'aXa'.replace('X', 'Y') | replace('a', 'b') | indent(2, true) }}", "  bYb"),
        ("{{ ', '.join(['a', 'b']).split(',')[0] | upper }}{{ '{:>3}'.format('x') }}", "A  x"),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m((1, 2)) }}{{ 2 ** 10 }}", "[(1, 2)]1024"),
        ("{{ tools is none }}{{ undefined_name }}{{ loop is defined }}", "TrueFalse"),
    ],
)
def test_a_template_has_what_hugging_face_gives_it(
    bpe_spec: Maker, template: str, text: str
) -> None:
    assert render(bpe_spec, template) == text


def test_the_generation_prompt_can_be_left_out(bpe_spec: Maker) -> None:
    template = "{{ add_generation_prompt }}"

    assert render(bpe_spec, template, add_generation_prompt=False) == "False"


@pytest.mark.parametrize(
    ("template", "where", "problem", "found"),
    [
        ("\n{% if %}", ", line 2", "is no valid Jinja",
         "Expected an expression, got 'end of statement block'"),
        ("\n\n{{ raise_exception('no system role') }}", ", line 3", "refuses the messages",
         "no system role"),
        ("\n{{ messages[0].content.x.y }}", ", line 2", "fails",
         "UndefinedError: 'str object' has no attribute 'x'"),
        ("{{ 1 + 'a' }}", ", line 1", "fails",
         "TypeError: unsupported operand type(s) for +: 'int' and 'str'"),
        ("{% include 'x' %}", ", line 1", "fails",
         "TypeError: no loader for this environment specified"),
        ("{{ 'a' | shout }}", ", line 1", "is no valid Jinja", "No filter named 'shout'."),
    ],
)  # fmt: skip
def test_a_template_that_fails_names_its_line(
    bpe_spec: Maker, template: str, where: str, problem: str, found: str
) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        render(bpe_spec, template)

    assert caught.value.problem == f"the chat template {problem}"
    assert caught.value.parts["where"] == f"the chat template{where}"
    assert caught.value.parts["found"] == found


def test_the_whole_message_of_a_template_that_refuses(bpe_spec: Maker) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        render(bpe_spec, "{{ raise_exception('roles must alternate') }}")

    assert str(caught.value) == (
        "error[APR-T004]: the chat template refuses the messages\n"
        "  where     the chat template, line 1\n"
        "  expected  messages as the template wants them\n"
        "  found     roles must alternate\n"
        "  try       give the prompt as it is: `--raw`"
    )


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ({"role": "king", "content": "a"}, "role 'king'"),
        ({"role": "User", "content": "a"}, "role 'User'"),
        ({"content": "a"}, "role 'None'"),
        ({"role": "user"}, "content: NoneType"),
        ({"role": "user", "content": ["a"]}, "content: list"),
        ("a", "str"),
    ],
)
def test_who_may_not_speak_and_what_is_no_text_are_refused(
    bpe_spec: Maker, message: object, found: str
) -> None:
    spec = replace(bpe_spec(), chat_template="{{ messages[1] }}")

    with pytest.raises(ChatTemplateError) as caught:
        encode_chat(Tokenizer(spec), [TURNS[0], message])

    assert str(caught.value) == (
        "error[APR-T004]: a message cannot be understood\n"
        "  where     message 1\n"
        "  expected  a role of system, developer, user, assistant, tool, and content that is "
        "text\n"
        f"  found     {found}\n"
        '  try       {"role": "user", "content": "..."}'
    )


def test_a_model_without_a_template_is_refused(bpe_spec: Maker) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        render_chat(bpe_spec(), TURNS)

    assert str(caught.value) == (
        "error[APR-T004]: the model has no chat template\n"
        "  where     the tokenizer's metadata\n"
        "  expected  a chat template, as instruct models have it\n"
        "  found     none\n"
        "  try       give the prompt as it is: `--raw`"
    )


def test_a_template_of_absurd_length_is_not_compiled(bpe_spec: Maker) -> None:
    with pytest.raises(ChatTemplateError, match=f"found     {MAX_TEMPLATE_CHARS + 1} char"):
        render(bpe_spec, "x" * (MAX_TEMPLATE_CHARS + 1))


@pytest.mark.parametrize("bos", ["{{ bos_token }}", ""])
def test_bos_comes_once_whether_or_not_the_template_writes_it(
    bpe_spec: Maker, bos: str
) -> None:
    spec = bpe_spec(tokens={"<s>": CONTROL}, bos_token_id=256, add_bos_token=True)
    spec = replace(spec, chat_template=bos + "{{ messages[0].content }}")

    assert apply_chat(Tokenizer(spec), "a") == [256, ord("a")]


def test_smollm2_answers_after_its_own_words(smollm2: Tokenizer) -> None:
    ids = apply_chat(smollm2, "What is 2+2?")

    assert smollm2.decode(ids) == (
        "<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [ids[0], ids.count(1), ids.count(2)] == [1, 3, 2]


@pytest.mark.qwen
def test_qwen_answers_after_its_own_words(qwen: Tokenizer) -> None:
    ids = apply_chat(qwen, "What is 2+2?")

    assert qwen.decode(ids) == (
        "<|im_start|>system\n"
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    )
