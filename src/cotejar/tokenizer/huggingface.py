"""The tokenizer of a Hugging Face folder: `tokenizer.json` and `tokenizer_config.json`.

`tokenizer.json` is the file format of the `tokenizers` library, which does the encoding
and the decoding. What the rest of the room needs of it is read here: the vocabulary, the
special tokens, how a token spells its bytes, and which tokens go around a text.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import cast

from tokenizers import Tokenizer

from cotejar.errors import TokenizerDataError, UnsupportedTokenizerError
from cotejar.tokenizer.greedy_spm import BYTE_TOKEN
from cotejar.tokenizer.metadata_keys import HINT
from cotejar.tokenizer.spec import TokenizerKind, TokenizerSpec, TokenType, no_tokenizer

_FILE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
# Ids beyond any real vocabulary: the tokens are kept as a list by id.
_MAX_ID = 1 << 24


def read_huggingface_spec(metadata: Mapping[str, object]) -> TokenizerSpec:
    """Read the tokenizer of a folder.

    Args:
        metadata: `tokenizer.json`, and as far as they are there `tokenizer_config.json`
            and `config` as objects, and `chat_template.jinja` as text.

    Raises:
        NoTokenizerError: there is no `tokenizer.json`.
        UnsupportedTokenizerError: its model is neither BPE nor Unigram.
        TokenizerDataError: it is malformed.
    """
    content = metadata.get(_FILE)
    if content is None:
        raise no_tokenizer(_FILE)
    content = _object(content, _FILE)
    _require_model_type(content)
    config = _object(metadata.get(_CONFIG) or {}, _CONFIG)
    kind = _spelling(content)
    tokens, token_types, ids = _read_vocabulary(content, kind)
    special = {
        name: _special_id(metadata, config, name, ids) for name in ("bos", "eos", "unk", "pad")
    }
    before, after = _added_around(content, ids)
    add_bos = config.get("add_bos_token")
    add_eos = config.get("add_eos_token")
    return TokenizerSpec(
        kind=kind,
        pre_tokenizer="",
        tokens=tokens,
        token_types=token_types,
        bos_id=special["bos"] if special["bos"] is not None else before,
        eos_id=special["eos"] if special["eos"] is not None else after,
        unk_id=special["unk"],
        pad_id=special["pad"],
        add_bos=add_bos if isinstance(add_bos, bool) else before is not None,
        add_eos=add_eos if isinstance(add_eos, bool) else after is not None,
        chat_template=_chat_template(metadata, config),
        huggingface_json=json.dumps(content, ensure_ascii=False),
    )


class HuggingFaceEncoder:
    """Turns text into ids and back as `tokenizer.json` says.

    Raises:
        TokenizerDataError: the library cannot build a tokenizer of the file.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        self._json = spec.huggingface_json or ""
        self._parsing = self._build()
        self._plain: Tokenizer | None = None

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Turn text into ids, without BOS and EOS.

        Raises:
            TokenizerDataError: the file has a setting that the library cannot meet.
        """
        tokenizer = self._parsing
        if not parse_special:
            # A second tokenizer, because the setting is the tokenizer's and not the call's.
            if self._plain is None:
                self._plain = self._build()
                self._plain.encode_special_tokens = True
            tokenizer = self._plain
        with _as_data_error("encode a text with the tokenizer"):
            ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int], *, skip_special: bool) -> str:
        """Turn ids into text."""
        with _as_data_error("decode ids with the tokenizer"):
            text: str = self._parsing.decode(ids, skip_special_tokens=skip_special)
        return text

    def _build(self) -> Tokenizer:
        with _as_data_error("read the tokenizer"):
            return Tokenizer.from_str(self._json)


@contextlib.contextmanager
def _as_data_error(what: str) -> Iterator[None]:
    """The library raises plain `Exception`; a panic of its Rust is not even that."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        raise TokenizerDataError(
            f"the tokenizers library cannot {what}",
            where=_FILE,
            expected="a tokenizer that it has written",
            found=f"{error!s:.200}" or type(error).__name__,
            hint=HINT,
        ) from error


def _require_model_type(content: Mapping[str, object]) -> None:
    model = _object(content.get("model"), f"{_FILE}, model")
    # The oldest files do not say that they are BPE, but have merges.
    model_type = model.get("type") or ("BPE" if "merges" in model else None)
    if model_type not in ("BPE", "Unigram"):
        raise UnsupportedTokenizerError(
            "the model's kind of tokenizer is not known here",
            where=f"{_FILE}, model.type",
            expected="BPE or Unigram",
            found=f"{model_type!r:.80}",
            hint="give token ids instead of text",
        )


def _read_vocabulary(
    content: Mapping[str, object], kind: TokenizerKind
) -> tuple[tuple[str, ...], tuple[int, ...], dict[str, int]]:
    """Read the tokens and their types by id, and the ids by token. A gap is UNUSED."""
    vocabulary = _object(content["model"], _FILE).get("vocab")
    where = f"{_FILE}, model.vocab"
    if isinstance(vocabulary, list):  # Unigram: pairs of a token and its score
        pairs = [(entry[0], i) for i, entry in enumerate(vocabulary) if _is_pair(entry)]
        if len(pairs) != len(vocabulary):
            raise _malformed(where, "pairs of a token and its score", "something else")
        ids = dict(pairs)
    else:
        ids = cast("dict[str, int]", dict(_object(vocabulary, where)))
    added = _read_added(content)
    ids.update((token, token_id) for token, token_id, _ in added)
    if set(map(type, ids)) - {str} or set(map(type, ids.values())) - {int}:
        raise _malformed(where, "strings with whole numbers", "something else among them")
    if not ids or not 0 <= min(ids.values()) <= max(ids.values()) < _MAX_ID:
        found = f"{min(ids.values())}..{max(ids.values())}" if ids else "no token"
        raise _malformed(where, f"ids within 0..{_MAX_ID - 1}", found)
    num_tokens = max(ids.values()) + 1
    tokens = [f"[UNUSED_{token_id}]" for token_id in range(num_tokens)]
    types = [int(TokenType.UNUSED)] * num_tokens
    for token, token_id in ids.items():
        tokens[token_id] = token
        is_byte = kind == "spm" and BYTE_TOKEN.fullmatch(token)
        types[token_id] = int(TokenType.BYTE if is_byte else TokenType.NORMAL)
    for _, token_id, is_control in added:
        token_type = TokenType.CONTROL if is_control else TokenType.USER_DEFINED
        types[token_id] = int(token_type)
    return tuple(tokens), tuple(types), ids


def _read_added(content: Mapping[str, object]) -> list[tuple[str, int, bool]]:
    """Tokens beside the vocabulary: what each is, its id, and whether it is special."""
    where = f"{_FILE}, added_tokens"
    added = []
    for value in _list(content.get("added_tokens") or [], where):
        entry = _object(value, where)
        token, token_id = entry.get("content"), entry.get("id")
        if not isinstance(token, str) or type(token_id) is not int:
            found = f"content {token!r:.40}, id {token_id!r:.40}"
            raise _malformed(where, "a string as content, a whole number as id", found)
        added.append((token, token_id, entry.get("special") is True))
    return added


def _is_pair(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)  # noqa: PLR2004 - a pair


def _spelling(content: Mapping[str, object]) -> TokenizerKind:
    """How tokens spell their bytes: in byte characters, or with U+2581 for a space."""
    kinds = {str(step.get("type")) for step in _steps(content.get("decoder"), "decoders")}
    if "ByteLevel" in kinds:
        return "bpe"
    if kinds & {"ByteFallback", "Metaspace", "Replace"}:
        return "spm"
    raise UnsupportedTokenizerError(
        "how the tokens spell their bytes is not known here",
        where=f"{_FILE}, decoder",
        expected="ByteLevel, Metaspace, or Replace with ByteFallback",
        found=f"{', '.join(sorted(kinds)):.80}" or "no decoder",
        hint="give token ids instead of text",
    )


def _added_around(
    content: Mapping[str, object], ids: Mapping[str, int]
) -> tuple[int | None, int | None]:
    """The tokens that the post-processor puts before and after a text."""
    for step in _steps(content.get("post_processor"), "processors"):
        single = step.get("single")
        if step.get("type") == "TemplateProcessing" and isinstance(single, list) and single:
            before, after = (_special_of(single[index], ids) for index in (0, -1))
            return before, after
    return None, None


def _special_of(part: object, ids: Mapping[str, int]) -> int | None:
    special = part.get("SpecialToken") if isinstance(part, dict) else None
    return ids.get(str(special.get("id"))) if isinstance(special, dict) else None


def _steps(value: object, name: str) -> Iterator[Mapping[str, object]]:
    """A decoder or post-processor, and if it is a sequence, all that are in it."""
    if isinstance(value, Mapping):
        yield value
        inner = value.get(name)
        for step in inner if isinstance(inner, list) else ():
            yield from _steps(step, name)


def _special_id(
    metadata: Mapping[str, object],
    config: Mapping[str, object],
    name: str,
    ids: Mapping[str, int],
) -> int | None:
    """A special token's id: by its text in tokenizer_config.json, else as config.json says."""
    token = config.get(f"{name}_token")
    if isinstance(token, Mapping):
        token = token.get("content")
    if isinstance(token, str) and token in ids:
        return ids[token]
    if token is not None and name in ("bos", "eos"):
        where = f"{_CONFIG}, {name}_token"
        raise _malformed(where, "a token of the vocabulary", repr(token)[:80])
    model_config = metadata.get("config")
    number = model_config.get(f"{name}_token_id") if isinstance(model_config, Mapping) else None
    if isinstance(number, list) and number:
        number = number[0]
    return number if type(number) is int and number in ids.values() else None


def _chat_template(metadata: Mapping[str, object], config: Mapping[str, object]) -> str | None:
    """The file chat_template.jinja of newer folders, else what tokenizer_config.json says."""
    template = metadata.get("chat_template.jinja", config.get("chat_template"))
    if isinstance(template, list):  # several by name, of which one is the default
        defaults = [e for e in template if isinstance(e, dict) and e.get("name") == "default"]
        template = defaults[-1].get("template") if defaults else None
    if template is None or isinstance(template, str):
        return template
    raise _malformed(f"{_CONFIG}, chat_template", "a string", type(template).__name__)


def _object(value: object, where: str) -> Mapping[str, object]:
    if isinstance(value, Mapping):
        return value
    raise _malformed(where, "an object", type(value).__name__)


def _list(value: object, where: str) -> list[object]:
    if isinstance(value, list):
        return value
    raise _malformed(where, "a list", type(value).__name__)


def _malformed(where: str, expected: str, found: str) -> TokenizerDataError:
    return TokenizerDataError(
        "the tokenizer's files are malformed",
        where=where,
        expected=expected,
        found=found,
        hint=HINT,
    )
