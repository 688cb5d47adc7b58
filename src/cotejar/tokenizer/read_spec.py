"""What a model file says of its tokenizer, read from the metadata of the three formats.

| what            | GGUF `tokenizer.ggml.`            | `.apr` `tokenizer.`          |
| --------------- | --------------------------------- | ---------------------------- |
| kind            | `model`: `gpt2`, `llama`          | `model`, or `model_type`     |
| pre-tokenizer   | `pre`                             | `pre_type`, or `pre`         |
| tokens by id    | `tokens`                          | `vocabulary`, or `tokens`    |
| merges, `"a b"` | `merges`                          | the same                     |
| scores          | `scores`                          | the same                     |
| token types     | `token_type`                      | the same                     |
| special ids     | `bos_token_id`, `eos_token_id`,   | the same                     |
|                 | `unknown_token_id`,               |                              |
|                 | `padding_token_id`, `eot_token_id` |                             |
| flags           | `add_bos_token`, `add_eos_token`, | the same                     |
|                 | `add_space_prefix`                |                              |
| chat template   | `tokenizer.chat_template`         | `chat_template`, or GGUF's   |

A Hugging Face folder says it in `tokenizer.json` instead: `huggingface` reads that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cotejar.errors import TokenizerDataError, UnsupportedTokenizerError
from cotejar.tokenizer.metadata_keys import HINT, MetadataKeys
from cotejar.tokenizer.pre_tokenizer import find_pre_tokenizer
from cotejar.tokenizer.spec import TokenizerKind, TokenizerSpec, TokenType, no_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_tokenizer_spec(format: str, metadata: Mapping[str, object]) -> TokenizerSpec:  # noqa: A002 - the word that ModelFile uses
    """Read the tokenizer of an opened model file.

    Args:
        format: `gguf`, `apr` or `safetensors`, as `ModelFile.format` says.
        metadata: `ModelFile.metadata`.

    Raises:
        NoTokenizerError: the metadata hold none. Such a model runs from token ids only.
        UnsupportedTokenizerError: the kind or the pre-tokenizer is not known here.
        TokenizerDataError: a table is malformed, or contradicts another.
    """
    if format == "gguf":
        return _read_gguf(metadata)
    if format == "apr":
        return _read_apr(metadata)
    if format == "safetensors":
        from cotejar.tokenizer.huggingface import read_huggingface_spec  # a library to load

        return read_huggingface_spec(metadata)
    raise UnsupportedTokenizerError(
        "a tokenizer cannot be read from this format",
        where="the model file",
        expected="gguf, apr or safetensors",
        found=repr(format),
        hint="give token ids instead of text",
    )


_SAME_IN_BOTH = (
    "merges",
    "scores",
    "token_type",
    "bos_token_id",
    "eos_token_id",
    "unknown_token_id",
    "padding_token_id",
    "eot_token_id",
    "add_bos_token",
    "add_eos_token",
    "add_space_prefix",
)
_GGUF_KEYS = {
    "model": ("tokenizer.ggml.model",),
    "pre": ("tokenizer.ggml.pre",),
    "tokens": ("tokenizer.ggml.tokens",),
    "chat_template": ("tokenizer.chat_template",),
    **{name: (f"tokenizer.ggml.{name}",) for name in _SAME_IN_BOTH},
}
_APR_KEYS = {
    "model": ("tokenizer.model", "tokenizer.model_type"),
    "pre": ("tokenizer.pre_type", "tokenizer.pre"),
    "tokens": ("tokenizer.vocabulary", "tokenizer.tokens"),
    "chat_template": ("chat_template", "tokenizer.chat_template"),
    **{name: (f"tokenizer.{name}",) for name in _SAME_IN_BOTH},
}

# What the formats call the two kinds: GGUF's names, and those of the libraries.
_KINDS: dict[str, TokenizerKind] = {
    "gpt2": "bpe",
    "bpe": "bpe",
    "llama": "spm",
    "spm": "spm",
    "sentencepiece": "spm",
}
_NO_TOKENIZER = ("none", "no_vocab")

# The ids of an SPM whose file does not name them: SentencePiece's own numbering.
_SPM_IDS = {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# An `.apr` may come without token types; its special tokens look like these.
_SPECIAL_LOOK = re.compile(r"<\|[^|<>]+\|>|</?s>|<unk>|<pad>")


def _read_gguf(metadata: Mapping[str, object]) -> TokenizerSpec:
    keys = MetadataKeys(metadata, _GGUF_KEYS)
    tokens = _read_tokens(keys)
    token_types = keys.integers("token_type", len(tokens))
    return _build(keys, tokens, token_types, metadata.get("general.architecture"))


def _read_apr(metadata: Mapping[str, object]) -> TokenizerSpec:
    keys = MetadataKeys(metadata, _APR_KEYS)
    tokens = _read_tokens(keys)
    token_types = keys.integers("token_type", len(tokens))
    if not token_types:
        token_types = tuple(
            int(TokenType.CONTROL if _SPECIAL_LOOK.fullmatch(token) else TokenType.NORMAL)
            for token in tokens
        )
    return _build(keys, tokens, token_types, metadata.get("architecture"))


def _read_tokens(keys: MetadataKeys) -> tuple[str, ...]:
    """Read the vocabulary. An empty token gets a name, as llama.cpp gives it."""
    tokens = keys.strings("tokens")
    if not tokens or keys.text("model") in _NO_TOKENIZER:
        raise no_tokenizer(keys.name_of("tokens"))
    distinct = set(tokens)
    if "" in distinct:
        tokens = tuple(token or f"[EMPTY_{index}]" for index, token in enumerate(tokens))
        distinct = set(tokens)
    if len(distinct) == len(tokens):
        return tokens
    first: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if first.setdefault(token, index) != index:
            break
    raise TokenizerDataError(
        "the vocabulary has one token twice",
        where=keys.name_of("tokens"),
        expected="tokens that all differ",
        found=f"{token!r} as id {first[token]} and as id {index}",
        hint=HINT,
    )


def _build(
    keys: MetadataKeys,
    tokens: tuple[str, ...],
    token_types: tuple[int, ...],
    architecture: object,
) -> TokenizerSpec:
    pre_tokenizer = keys.text("pre")
    if pre_tokenizer is None:
        # Every Qwen has this one. llama.cpp takes the default, and gives other ids.
        pre_tokenizer = "qwen2" if architecture in ("qwen2", "qwen3") else ""
    merges = keys.strings("merges")
    kind = _read_kind(keys, has_merges=bool(merges))
    adds_bos = kind == "spm"
    if kind == "bpe":
        adds_bos = find_pre_tokenizer(pre_tokenizer, where=keys.name_of("pre")).adds_bos
    defaults = _SPM_IDS if kind == "spm" else {}

    def special(field: str) -> int | None:
        token_id = keys.token_id(field, len(tokens))
        default = defaults.get(field, len(tokens))
        return default if token_id is None and default < len(tokens) else token_id

    spec = TokenizerSpec(
        kind=kind,
        pre_tokenizer=pre_tokenizer if kind == "bpe" else "",
        tokens=tokens,
        merges=merges if kind == "bpe" else (),
        scores=keys.numbers("scores", len(tokens)) if kind == "spm" else (),
        token_types=token_types,
        bos_id=special("bos_token_id"),
        eos_id=special("eos_token_id"),
        unk_id=special("unknown_token_id"),
        pad_id=special("padding_token_id"),
        eot_id=special("eot_token_id"),
        add_bos=keys.flag("add_bos_token", default=adds_bos),
        add_eos=keys.flag("add_eos_token", default=False),
        add_space_prefix=kind == "spm" and keys.flag("add_space_prefix", default=True),
        chat_template=keys.text("chat_template"),
    )
    _require_tables(spec, keys)
    return spec


def _read_kind(keys: MetadataKeys, *, has_merges: bool) -> TokenizerKind:
    model = keys.text("model")
    if model is None:
        return "bpe" if has_merges else "spm"
    kind = _KINDS.get(model.lower())
    if kind is None:
        raise UnsupportedTokenizerError(
            "the model's kind of tokenizer is not known here",
            where=keys.name_of("model"),
            expected="gpt2 (byte-level BPE) or llama (SentencePiece)",
            found=repr(model),
            hint="give token ids instead of text",
        )
    return kind


def _require_tables(spec: TokenizerSpec, keys: MetadataKeys) -> None:
    """Require what the kind and the flags need."""
    needs = (
        ("merges", spec.kind == "bpe", keys.get("merges") is not None, "a BPE merges by them"),
        ("scores", spec.kind == "spm", spec.scores, "an SPM merges by them"),
        ("bos_token_id", spec.add_bos, spec.bos_id is not None, "BOS goes before a text"),
        ("eos_token_id", spec.add_eos, spec.eos_id is not None, "EOS goes after a text"),
    )
    for field_name, is_needed, is_there, reason in needs:
        if is_needed and not is_there:
            raise TokenizerDataError(
                "the tokenizer is not whole",
                where=keys.name_of(field_name),
                expected=f"a value: {reason}",
                found="nothing",
                hint=HINT,
            )
