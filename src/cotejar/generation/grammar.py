"""A constraint on what may be generated: a JSON schema, a regular expression, a grammar.

The `llguidance` library (extra `grammar`) says after each token which may come next; here it
is given a model's own tokens as bytes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from cotejar.errors import GrammarError, MissingExtraError, MissingFileError, ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Bool

    from cotejar.tokenizer.tokenizer import Tokenizer

KINDS = ("json-schema", "regex", "lark", "gbnf")
MAX_GRAMMAR_BYTES = 1 << 20


def read_grammar(path: Path) -> str:
    """Read a grammar's text from a file.

    Raises:
        MissingFileError, GrammarError: there is no such file; it is too large, or no UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_GRAMMAR_BYTES + 1)
        if len(raw) > MAX_GRAMMAR_BYTES:
            raise _refused(str(path), f"more than {MAX_GRAMMAR_BYTES} bytes")
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _refused(str(path), f"no UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise MissingFileError(
            "the grammar cannot be read",
            where=str(path),
            expected="a readable file",
            found=error.strerror or type(error).__name__,
            hint="give the path of a JSON schema or a grammar",
        ) from None


class GrammarConstraint:
    """Which tokens a grammar allows next.

    Raises:
        MissingExtraError: llguidance is not installed.
        GrammarError: the grammar is none, or needs more than the library's limits.
    """

    def __init__(self, tokenizer: Tokenizer, kind: str, grammar: str, vocab_size: int) -> None:
        """Compile a grammar for a model's tokens.

        Args:
            tokenizer: the model's.
            kind: one of `KINDS`.
            grammar: its text.
            vocab_size: of the model's logits, which a vocabulary may be padded to.
        """
        try:
            import llguidance
        except ImportError:
            raise MissingExtraError(
                "generating by a grammar needs a package that is not installed",
                where="--grammar, --json-schema",
                expected="the package llguidance",
                found="no such package",
                hint="pip install 'cotejar[grammar]'",
            ) from None
        self._vocab_size = vocab_size
        self._matcher = llguidance.LLMatcher(
            _library_tokenizer(llguidance, tokenizer, vocab_size),
            _compile(llguidance, kind, grammar),
            log_level=0,
        )
        if self._matcher.is_error():
            raise _refused(kind, self._matcher.get_error())

    def allowed(self) -> Bool[np.ndarray, "V"]:
        """True where a token may come next; where the grammar is complete, an end token."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._require_sound()
        return np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(np.bool_)

    def accept(self, token: int) -> None:
        """A token was chosen."""
        self._matcher.consume_token(token)
        self._require_sound()

    def _require_sound(self) -> None:
        if self._matcher.is_error():
            raise ModelError(
                "the text cannot go on by the grammar",
                where="generation",
                expected="a token that the grammar allows",
                found=_first_line(self._matcher.get_error()),
                hint="a simpler grammar may stay within the limits of the library",
            )


class _Tokens:
    """A tokenizer as the library wants it: every token's bytes."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        ends = sorted(tokenizer.eos_ids)
        if not ends:
            raise _refused("the tokenizer", "no token that ends a text")
        self.eos_token_id = tokenizer.spec.eos_id if tokenizer.spec.eos_id in ends else ends[0]
        self.bos_token_id = tokenizer.bos_id
        count = tokenizer.vocab_size
        self.special_token_ids = [i for i in range(count) if tokenizer.is_control(i)]
        known = [tokenizer.token_bytes(i) for i in range(min(count, vocab_size))]
        self.tokens = [*known, *(b"" for _ in range(vocab_size - len(known)))]

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, parse_special=False)


def _library_tokenizer(llguidance: Any, tokenizer: Tokenizer, vocab_size: int) -> Any:
    wrapper = llguidance.TokenizerWrapper(_Tokens(tokenizer, vocab_size))
    ends = sorted(i for i in tokenizer.eos_ids if i < vocab_size)
    return llguidance.LLTokenizer(wrapper, n_vocab=vocab_size, eos_token=ends)


def _compile(llguidance: Any, kind: str, grammar: str) -> str:
    try:
        if kind == "json-schema":
            compiled = llguidance.LLMatcher.grammar_from_json_schema(json.loads(grammar))
        elif kind == "regex":
            compiled = llguidance.LLMatcher.grammar_from_regex(grammar)
        elif kind == "gbnf":
            from llguidance.gbnf_to_lark import gbnf_to_lark

            source = gbnf_to_lark(grammar)
            compiled = llguidance.LLMatcher.grammar_from_lark(source)
        else:
            compiled = llguidance.LLMatcher.grammar_from_lark(grammar)
    except Exception as error:  # noqa: BLE001 - the GBNF reader raises nothing narrower
        raise _refused(kind, str(error) or type(error).__name__) from None
    return str(compiled)


def _refused(where: str, reason: str) -> GrammarError:
    return GrammarError(
        "the grammar cannot be used",
        where=where,
        expected="a JSON schema, a regular expression, or a Lark or GBNF grammar",
        found=_first_line(reason),
        hint="--json-schema takes a JSON Schema file, --grammar a .lark or .gbnf file",
    )


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[0][:200]
