"""How one list of token ids came of another."""

from __future__ import annotations

import pytest

from cotejar.diagnosis.hypotheses.tokens import explain_tokens

CASES = [
    ([5, 6, 7], [1, 5, 6, 7], "bos-extra", "one token too many in front, 1 (a second BOS?)"),
    ([1, 5, 6], [5, 6], "bos-missing", "the first token, 1, is left out (the BOS?)"),
    ([5, 6, 7, 8], [5, 6], "tokens-dropped", "the last 2 tokens are left out"),
    ([5, 6], [5, 6, 9], "tokens-added", "1 tokens are added at the end"),
    ([1, 5, 6, 7], [8, 9, 5, 6, 7, 3], "template",
     "3 tokens are put around the prompt, 2 of them before it (a chat template?)"),
    ([8, 9, 5, 6, 7, 3], [5, 6, 7], "template-missing",
     "3 tokens around the prompt are left out, 2 of them before it (a chat template?)"),
    ([8, 9, 5, 6, 7, 3], [1, 5, 6, 7], "template-missing",
     "3 tokens around the prompt are left out, 2 of them before it (a chat template?)"),
    ([5, 6, 7], [5, 9, 7], "tokens", "1 of 3 tokens are others, the first token 1: 9, not 6"),
    ([5, 6, 7], [5, 9], "tokenizer",
     "the text was cut into 2 tokens, not 3: another tokenizer or pre-tokenizer?"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "used", "id_", "title"), CASES)
def test_a_difference_is_named(right: list[int], used: list[int], id_: str, title: str) -> None:
    cause = explain_tokens(right, used)

    assert cause is not None
    assert (cause.id, cause.title) == (id_, title)


@pytest.mark.parametrize("ids", [[], [5, 6]])
def test_of_equal_lists_nothing_is_said(ids: list[int]) -> None:
    assert explain_tokens(ids, ids) is None
