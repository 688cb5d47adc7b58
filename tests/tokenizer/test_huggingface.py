"""The tokenizer of a Hugging Face folder does what the `tokenizers` library does with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from cotejar.errors import TokenizerDataError, UnsupportedTokenizerError
from cotejar.tokenizer import huggingface
from cotejar.tokenizer.byte_level import CHARACTERS
from cotejar.tokenizer.chat import apply_chat
from cotejar.tokenizer.read_spec import read_tokenizer_spec
from cotejar.tokenizer.spec import TokenType
from cotejar.tokenizer.tokenizer import StreamDecoder, Tokenizer

CONFIG = {
    "bos_token": "<s>",
    "eos_token": {"content": "</s>", "lstrip": False},
    "pad_token": None,
    "chat_template": "{{ bos_token }}{{ messages[0].content }}",
}


def byte_level() -> Library:
    tokens = [*CHARACTERS, "ab", "Ġa"]
    vocab = {token: index for index, token in enumerate(tokens)}
    library = Library(models.BPE(vocab=vocab, merges=[("a", "b"), ("Ġ", "a")]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<s>", "</s>"])
    library.add_tokens([AddedToken("<tool>", normalized=False)])
    library.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 258)]),
        ]
    )
    return library


def byte_fallback() -> Library:
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, "▁", "a", "b", "▁a", "ab"]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [("▁", "a"), ("a", "b")]
    library = Library(
        models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>")
    )
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    library.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    return library


def folder(library: Library, **config: object) -> dict[str, Any]:
    content = json.loads(library.to_str())
    return {"tokenizer.json": content, "tokenizer_config.json": CONFIG | config}


def read(library: Library, **config: object) -> Tokenizer:
    return Tokenizer(read_tokenizer_spec("safetensors", folder(library, **config)))


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@given(text=st.text(alphabet="ab é中 <s>/tol", max_size=30))
def test_ids_and_text_are_the_librarys(make: Any, text: str) -> None:
    library = make()
    tokenizer = read(library, add_bos_token=False)

    ids = tokenizer.encode(text)

    assert ids == library.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=False)


def test_the_vocabulary_has_the_types_that_the_files_give_it() -> None:
    spec = read(byte_level()).spec

    assert spec.kind == "bpe"
    assert spec.tokens[256:] == ("ab", "Ġa", "<s>", "</s>", "<tool>")
    kinds = (TokenType.NORMAL, TokenType.NORMAL, TokenType.CONTROL, TokenType.CONTROL)
    assert spec.token_types[256:] == (*map(int, kinds), int(TokenType.USER_DEFINED))
    assert (spec.bos_id, spec.eos_id, spec.pad_id) == (258, 259, None)


def test_control_tokens_can_be_text() -> None:
    tokenizer = read(byte_level())

    assert tokenizer.encode("<tool><s>", add_special=False) == [260, 258]
    plain = tokenizer.encode("<tool><s>", add_special=False, parse_special=False)
    assert plain == [260, ord("<"), ord("s"), ord(">")]


@pytest.mark.parametrize(("says", "ids"), [({}, [258, 256]), ({"add_bos_token": False}, [256])])
def test_bos_follows_the_configuration_and_else_the_template(
    says: dict[str, object], ids: list[int]
) -> None:
    assert read(byte_level(), **says).encode("ab") == ids


def test_a_chat_has_bos_once() -> None:
    assert apply_chat(read(byte_level()), "ab") == [258, 256]


def test_a_gap_in_the_ids_is_an_unused_token() -> None:
    metadata = folder(byte_level())
    metadata["tokenizer.json"]["model"]["vocab"]["far"] = 300

    tokenizer = Tokenizer(read_tokenizer_spec("safetensors", metadata))

    assert (tokenizer.vocab_size, tokenizer.token_bytes(299)) == (301, b"")


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_a_stream_says_what_decoding_at_once_says(make: Any) -> None:
    tokenizer = read(make(), add_bos_token=False)
    stream = StreamDecoder(tokenizer)

    ids = tokenizer.encode("ab é中")

    streamed = "".join(map(stream.push, ids)) + stream.finish()
    # A stream continues a text, so it keeps the space that decoding takes away.
    assert streamed.removeprefix(" ") == tokenizer.decode(ids) == "ab é中"


def test_a_named_default_template_is_found_among_several() -> None:
    templates = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]

    assert read(byte_level(), chat_template=templates).spec.chat_template == "d"


def test_a_template_in_a_file_of_its_own_is_found_first() -> None:
    metadata = folder(byte_level()) | {"chat_template.jinja": "own"}

    assert read_tokenizer_spec("safetensors", metadata).chat_template == "own"


def test_special_ids_that_have_no_text_are_those_of_the_configuration() -> None:
    metadata = folder(byte_level(), eos_token=None, pad_token="[none]")
    metadata["config"] = {"eos_token_id": [259, 3], "pad_token_id": 9999}

    spec = read_tokenizer_spec("safetensors", metadata)

    assert (spec.eos_id, spec.pad_id) == (259, None)


def test_a_wordpiece_tokenizer_is_refused() -> None:
    metadata = {"tokenizer.json": {"model": {"type": "WordPiece", "vocab": {}}}}

    with pytest.raises(UnsupportedTokenizerError) as caught:
        read_tokenizer_spec("safetensors", metadata)

    assert str(caught.value) == (
        "error[APR-T003]: the model's kind of tokenizer is not known here\n"
        "  where     tokenizer.json, model.type\n"
        "  expected  BPE or Unigram\n"
        "  found     'WordPiece'\n"
        "  try       give token ids instead of text"
    )


def test_a_decoder_that_is_not_known_is_refused() -> None:
    metadata = folder(byte_level())
    metadata["tokenizer.json"]["decoder"] = {"type": "CTC"}

    with pytest.raises(UnsupportedTokenizerError, match="found     CTC"):
        read_tokenizer_spec("safetensors", metadata)


@pytest.mark.parametrize(
    ("path", "value", "where", "expected", "found"),
    [
        (("model",), 3, "tokenizer.json, model", "an object", "int"),
        (("model", "vocab"), {"a": "x"}, "tokenizer.json, model.vocab",
         "strings with whole numbers", "something else among them"),
        (("model", "vocab"), {"a": -1}, "tokenizer.json, model.vocab",
         "ids within 0..16777215", "-1..260"),
        (("model", "vocab"), {"a": 1 << 40}, "tokenizer.json, model.vocab",
         "ids within 0..16777215", "258..1099511627776"),
        (("added_tokens",), [3], "tokenizer.json, added_tokens", "an object", "int"),
        (("added_tokens",), 3, "tokenizer.json, added_tokens", "a list", "int"),
        *(
            (("added_tokens",), [{"content": content, "id": token_id}],
             "tokenizer.json, added_tokens", "a string as content, a whole number as id",
             f"content {content!r}, id {token_id!r}")
            for content, token_id in [({"a": 1}, 3), (["<s>"], 3), (7, 3), (None, 3),
                                      ("<s>", True), ("<s>", 1.0), ("<s>", {}), ("<s>", None)]
        ),
    ],
)  # fmt: skip
def test_a_malformed_file_is_refused_with_both_sides(
    path: tuple[str, ...], value: object, where: str, expected: str, found: str
) -> None:
    metadata = folder(byte_level())
    target = metadata["tokenizer.json"]
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value

    with pytest.raises(TokenizerDataError) as caught:
        read_tokenizer_spec("safetensors", metadata)

    assert caught.value.parts["where"] == where
    assert (caught.value.parts["expected"], caught.value.parts["found"]) == (expected, found)


def test_a_token_that_the_vocabulary_lacks_is_refused() -> None:
    with pytest.raises(TokenizerDataError) as caught:
        read(byte_level(), eos_token="<none>")

    assert str(caught.value) == (
        "error[APR-T005]: the tokenizer's files are malformed\n"
        "  where     tokenizer_config.json, eos_token\n"
        "  expected  a token of the vocabulary\n"
        "  found     '<none>'\n"
        "  try       convert the model again, or give token ids instead of text"
    )


def test_a_file_that_the_library_cannot_read_is_refused() -> None:
    metadata = folder(byte_level())
    metadata["tokenizer.json"]["pre_tokenizer"] = {"type": "Nonsense"}

    with pytest.raises(TokenizerDataError, match="the tokenizers library cannot read"):
        Tokenizer(read_tokenizer_spec("safetensors", metadata))


@pytest.mark.parametrize("kind", [{"a": 1}, ["ByteLevel"], 3, None])
def test_a_decoder_whose_type_is_no_text_is_refused(kind: object) -> None:
    metadata = folder(byte_level())
    metadata["tokenizer.json"]["decoder"] = {"type": kind}

    with pytest.raises(UnsupportedTokenizerError) as caught:
        read_tokenizer_spec("safetensors", metadata)

    assert caught.value.parts["found"] == str(kind)


def test_templates_whose_name_is_no_text_are_passed_over() -> None:
    templates = [{"name": ["x"], "template": "1"}, {"name": {}}, 3]

    assert read(byte_level(), chat_template=templates).spec.chat_template is None
    templates.append({"name": "default", "template": "2"})
    assert read(byte_level(), chat_template=templates).spec.chat_template == "2"


@pytest.mark.parametrize("number", [True, {"a": 1}, [{}], 1.0])
def test_an_id_that_is_no_whole_number_is_none(number: object) -> None:
    metadata = folder(byte_level(), pad_token=None)
    metadata["config"] = {"pad_token_id": number}

    assert read_tokenizer_spec("safetensors", metadata).pad_id is None


class Panic(BaseException):
    """As pyo3 raises one: no Exception."""


def test_a_panic_of_the_library_is_an_error_of_the_file(monkeypatch) -> None:
    class Panics:
        @staticmethod
        def from_str(_: str) -> None:
            raise Panic

    spec = read_tokenizer_spec("safetensors", folder(byte_level()))
    monkeypatch.setattr(huggingface, "Tokenizer", Panics)

    with pytest.raises(TokenizerDataError) as caught:
        Tokenizer(spec)

    assert caught.value.parts["found"] == "Panic"


def test_a_setting_that_the_library_cannot_meet_is_an_error_of_the_file() -> None:
    """A Unigram without an unknown token, given what its vocabulary lacks."""
    library = Library(models.Unigram([("a", -1.0)], None, byte_fallback=False))
    library.decoder = decoders.Metaspace()
    tokenizer = Tokenizer(
        read_tokenizer_spec("safetensors", folder(library, bos_token=None, eos_token=None))
    )

    with pytest.raises(TokenizerDataError, match="library cannot encode a text"):
        tokenizer.encode("b")
