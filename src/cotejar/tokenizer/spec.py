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

import enum
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cotejar.errors import NoTokenizerError, TokenizerDataError, UnsupportedTokenizerError
from cotejar.tokenizer.metadata_keys import HINT, MetadataKeys
from cotejar.tokenizer.pre_tokenizer import find_pre_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

TokenizerKind = Literal["bpe", "spm"]


class TokenType(enum.IntEnum):
    """What a token is; GGUF's numbers."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerSpec:
    """All that is needed to build a tokenizer. Every id is below `len(tokens)`."""

    kind: TokenizerKind
    """`bpe`: byte-level BPE. `spm`: SentencePiece's greedy merges by score."""
    pre_tokenizer: str
    """How a BPE cuts text into words: `llama-bpe`, `qwen2`, ...; `""` is the default."""
    tokens: tuple[str, ...] = field(repr=False)
    """By id, no two alike, as the file spells them: `Ġequals`, `▁equals`, `<0x0A>`."""
    merges: tuple[str, ...] = field(default=(), repr=False)
    """`"Ġ t"`: the two halves, best first. Only a BPE has them."""
    scores: tuple[float, ...] = field(default=(), repr=False)
    """By id, higher merges first. Only an SPM needs them."""
    token_types: tuple[int, ...] = field(default=(), repr=False)
    """A `TokenType` by id; empty when the file does not say, and all are NORMAL."""
    bos_id: int | None = None
    eos_id: int | None = None
    unk_id: int | None = None
    pad_id: int | None = None
    eot_id: int | None = None
    """The end of a turn, where the file names one apart from `eos_id`."""
    add_bos: bool = False
    """Whether a text begins with BOS."""
    add_eos: bool = False
    add_space_prefix: bool = False
    """Whether an SPM puts a space before the text, and after each special token."""
    chat_template: str | None = field(default=None, repr=False)
    """Jinja source."""
    huggingface_json: str | None = field(default=None, repr=False)
    """The text of `tokenizer.json`, which then does the work of the tables above."""

    def token_of(self, token_id: int | None) -> str:
        """The spelling of a special token; `""` for None."""
        return "" if token_id is None else self.tokens[token_id]


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
        from cotejar.tokenizer.huggingface import read_huggingface_spec

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


def no_tokenizer(where: str) -> NoTokenizerError:
    """The error for a model that carries no tokenizer."""
    return NoTokenizerError(
        "the model carries no tokenizer, so text cannot become ids",
        where=where,
        expected="a list of tokens",
        found="none",
        hint="token ids need none: `apr trace` and `apr parity` take --tokens 1,2,3",
    )
