"""A conversation says what the whole history, run anew each time, would say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cotejar.engines.native.engine import NativeEngine, NativeSession
from cotejar.errors import ChatTemplateError, ContextLengthError
from cotejar.generation.chat_session import ChatSession
from cotejar.generation.generate import generate
from cotejar.generation.open_native import open_native
from cotejar.generation.sampler import Sampler
from cotejar.generation.sampling_options import SamplingOptions
from cotejar.tokenizer.chat import encode_chat

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


@pytest.fixture(scope="module")
def engine(demo_model: Path) -> NativeEngine:
    return open_native(str(demo_model))


def chat(engine: NativeEngine, system: str | None = None) -> ChatSession:
    return ChatSession(engine, SamplingOptions(), max_tokens=8, system=system)


def afresh(engine: NativeEngine, messages: list[dict[str, object]]) -> str:
    tokenizer = engine.model.tokenizer
    made = generate(
        engine,
        encode_chat(tokenizer, messages),
        sampler=Sampler(),
        max_tokens=8,
        end_ids=tokenizer.eos_ids,
    )
    return tokenizer.decode(made.token_ids)


def test_every_turn_is_what_the_history_gives_afresh(engine: NativeEngine) -> None:
    session, heard = chat(engine, "Be brief."), list[str]()

    for question in ("Name a colour.", "And another?", "Why?"):
        reply = session.ask(question, heard.append)

        assert reply.text == afresh(engine, session.messages[:-1])
        assert session.messages[-1] == {"role": "assistant", "content": reply.text}
    assert reply.num_reused > 20, "the turns before are in the cache"
    assert reply.num_reused < reply.num_prompt
    assert "".join(heard).endswith(reply.text)
    assert [m["role"] for m in session.messages] == ["system", *["user", "assistant"] * 3]


def test_clear_forgets_all_but_the_system_message(engine: NativeEngine) -> None:
    session = chat(engine, "Be brief.")
    session.ask("Name a colour.", lambda _: None)

    session.clear()

    assert session.messages == [{"role": "system", "content": "Be brief."}]
    assert session.ask("Why?", lambda _: None).text == afresh(engine, session.messages[:-1])


@pytest.mark.parametrize("in_pass", [False, True])
def test_ctrl_c_ends_the_reply_and_keeps_the_conversation(
    engine: NativeEngine, monkeypatch: pytest.MonkeyPatch, in_pass: bool
) -> None:
    session, heard = chat(engine), list[str]()

    def interrupt(text: str) -> None:
        heard.append(text)
        if len(heard) == 3 and not in_pass:
            raise KeyboardInterrupt

    append = NativeSession.append

    def broken(self: NativeSession, token_ids: list[int]) -> np.ndarray:
        logits_V = append(self, token_ids)
        if in_pass and len(heard) == 3:
            raise KeyboardInterrupt
        return logits_V

    monkeypatch.setattr(NativeSession, "append", broken)
    reply = session.ask("Tell a story.", interrupt)
    monkeypatch.undo()

    assert reply.interrupted
    assert reply.num_tokens == 3
    assert session.messages[-1]["content"] == reply.text
    then = session.ask("Go on.", lambda _: None)
    assert then.text == afresh(engine, session.messages[:-1])


def test_a_conversation_that_is_too_long_is_left_as_it_was(engine: NativeEngine) -> None:
    session = chat(engine)

    with pytest.raises(ContextLengthError, match="the conversation has become too long"):
        session.ask("word " * 10_000, lambda _: None)

    assert session.messages == []
    assert session.ask("Why?", lambda _: None).text


def test_a_template_that_refuses_leaves_the_conversation_as_it_was(
    engine: NativeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = chat(engine)
    first = session.ask("Why?", lambda _: None)
    spec = engine.model.tokenizer.spec
    refusing = "{{ raise_exception('roles must alternate') }}"
    monkeypatch.setattr(engine.model.tokenizer, "spec", replace(spec, chat_template=refusing))

    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        session.ask("And?", lambda _: None)

    assert [m["content"] for m in session.messages] == ["Why?", first.text]
    monkeypatch.undo()
    then = session.ask("And?", lambda _: None)
    assert then.text == afresh(engine, session.messages[:-1])
