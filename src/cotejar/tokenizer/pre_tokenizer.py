"""The pre-tokenizers: how a byte-level BPE cuts text into words before it merges.

A pre-tokenizer is a list of patterns, applied one after the other: each cuts every piece
that the ones before it left, so that its matches, and what lies between them, become
pieces of their own. No merge crosses a cut, so a wrong pattern gives wrong ids.

GGUF names the pre-tokenizer in `tokenizer.ggml.pre`; the names are those of llama.cpp's
`src/llama-vocab.cpp`. The patterns are the ones in the models' own `tokenizer.json`, on the
same regular expression engine. llama.cpp's engines differ from it in two places, and we
follow the model: for `'s` whatever its case, the model also takes the long s (U+017F) for
an s; and deepseek-coder's East Asian run may hold wide spaces (U+3000).
"""

from __future__ import annotations

from dataclasses import dataclass

from cotejar.errors import UnsupportedTokenizerError


@dataclass(frozen=True, kw_only=True, slots=True)
class PreTokenizer:
    """One way to cut text into words."""

    patterns: tuple[str, ...]
    """Oniguruma regular expressions, in the order in which they cut."""
    ignore_merges: bool = False
    """A word that is a token becomes that token, even if no merges lead to it."""
    adds_bos: bool = False
    """Whether BOS goes in front when the model does not say."""


_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS_AND_SPACE = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS_AND_SPACE}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SYMBOLS_AND_SPACE}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_NEWLINE = r"[\r\n]"
_DIGIT = r"\p{N}"
# All from U+0800 to the CJK ideographs, these, and Hangul.
_EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

_DEFAULT_PATTERNS = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")

_FAMILIES: tuple[tuple[tuple[str, ...], PreTokenizer], ...] = (
    (("", "default"), PreTokenizer(patterns=_DEFAULT_PATTERNS)),
    (("gpt-2", "phi-2", "olmo", "mpt"), PreTokenizer(patterns=(_GPT2,))),
    (
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"),
        PreTokenizer(patterns=(_LLAMA3,), ignore_merges=True, adds_bos=True),
    ),
    (("smaug-bpe",), PreTokenizer(patterns=(_LLAMA3,))),
    (("qwen2", "deepseek-r1-qwen", "megrez"), PreTokenizer(patterns=(_QWEN2,))),
    (
        ("smollm", "starcoder", "refact", "minerva-7b"),
        PreTokenizer(patterns=(_DIGIT, _GPT2)),
    ),
    (
        ("deepseek-coder",),
        PreTokenizer(patterns=(_NEWLINE, r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, _DIGIT)),
    ),
)
_BY_NAME = {name: family for names, family in _FAMILIES for name in names}

KNOWN_PRE_TOKENIZERS = tuple(sorted(name for name in _BY_NAME if name))
"""The names that `tokenizer.ggml.pre` may have. None at all means `default`."""


def find_pre_tokenizer(name: str, *, where: str) -> PreTokenizer:
    """Return the pre-tokenizer of that name; `""` is `default`.

    Raises:
        UnsupportedTokenizerError: nobody here knows the name. Another pre-tokenizer in
            its place would give ids that look right and are not.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnsupportedTokenizerError(
            "the model cuts text into words in a way that is not known here",
            where=where,
            expected=f"one of {', '.join(KNOWN_PRE_TOKENIZERS)}",
            found=repr(name),
            hint="give token ids instead of text",
        ) from None
