"""What two model files say differently: facts whatever the format, keys where it is one.

Files of different formats have different keys for the same things, so of those only the
*facts* are compared: the architecture's sizes, and the tokenizer. Two files of one format
are compared key by key as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cotejar.errors import NoTokenizerError, TokenizerError
from cotejar.formats.gguf.metadata import GgufMetadata
from cotejar.model.architecture_summary import summarize_architecture
from cotejar.parity.preconditions import FLOAT32_ROUNDING
from cotejar.tokenizer.read_spec import read_tokenizer_spec

if TYPE_CHECKING:
    from cotejar.formats.model_file import ModelFile

Pair = tuple[object, object]

_SHOWN_CHARS = 200
_HUGGING_FACE_FACTS = ("tokenizer.bos_id", "tokenizer.eos_id", "tokenizer.chat_template")
PAIRING_FACT = "rope_pairing"
"""Of its tokenizer, what a Hugging Face folder says in a form that other formats share."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Stands for the value of a key that a file does not have."""

    def __str__(self) -> str:
        return "(not there)"


MISSING = Missing()


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueDifference:
    """One key or fact on which two files differ."""

    key: str
    place: str
    """Where inside the value: `[17]`, `.rope_theta`; empty for the whole of it."""
    a: object
    """The value at that place, or `MISSING`; a long text is cut."""
    b: object

    def as_json(self) -> dict[str, object]:
        """For `--json`; what is missing is null, and `only_in` says where it is there."""
        facts: dict[str, object] = {"key": self.key, "place": self.place}
        for side, value in (("a", self.a), ("b", self.b)):
            facts[side] = None if value is MISSING else value
        only_in = {(True, False): "b", (False, True): "a"}
        facts["only_in"] = only_in.get((self.a is MISSING, self.b is MISSING))
        return facts


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataDiff:
    """All differences of two files' metadata."""

    num_facts: int
    """Facts that both files state."""
    facts: tuple[ValueDifference, ...]
    num_keys: int | None
    """Keys of both together; None where the formats differ, and keys are not compared."""
    keys: tuple[ValueDifference, ...]

    @property
    def is_same(self) -> bool:
        """Nothing that was compared differs."""
        return not self.facts and not self.keys

    def without_fact(self, key: str) -> MetadataDiff:
        """The same without a difference that something else explains."""
        facts = tuple(difference for difference in self.facts if difference.key != key)
        return replace(self, facts=facts)

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "facts_compared": self.num_facts,
            "facts": [difference.as_json() for difference in self.facts],
            "keys_compared": self.num_keys,
            "keys": [difference.as_json() for difference in self.keys],
        }


def diff_metadata(a: ModelFile, b: ModelFile) -> MetadataDiff:
    """Compare what two opened files say of themselves.

    Raises:
        MetadataError: a value cannot be decoded.
    """
    facts_a, facts_b = _facts(a), _facts(b)
    stated = [key for key in facts_a if key in facts_b]
    if "safetensors" in (a.format, b.format) and a.format != b.format:
        stated = [
            key
            for key in stated
            if not key.startswith("tokenizer.") or key in _HUGGING_FACE_FACTS
        ]
    same_format = a.format == b.format
    keys = list(dict.fromkeys([*a.metadata, *b.metadata])) if same_format else []
    return MetadataDiff(
        num_facts=len(stated),
        facts=tuple(
            _difference(key, facts_a[key], facts_b[key])
            for key in stated
            if not same_value(facts_a[key], facts_b[key])
        ),
        num_keys=len(keys) if same_format else None,
        keys=tuple(
            _difference(key, a.metadata.get(key, MISSING), b.metadata.get(key, MISSING))
            for key in keys
            if not _same_key(a.metadata, b.metadata, key)
        ),
    )


def same_value(a: object, b: object) -> bool:
    """Equal; of two real numbers, up to float32's rounding: one file may store less."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or math.isclose(a, b, rel_tol=FLOAT32_ROUNDING, abs_tol=0.0)
    return type(a) is type(b) and a == b


def first_difference(a: object, b: object, place: str = "") -> tuple[str, object, object]:
    """The first place at which two values differ, and what stands there on both sides."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({*a, *b}, key=str):
            inner = a.get(key, MISSING), b.get(key, MISSING)
            if not _identical(*inner):
                return first_difference(*inner, f"{place}.{key}")
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        for i, (left, right) in enumerate(zip(a, b, strict=False)):
            if not _identical(left, right):
                return first_difference(left, right, f"{place}[{i}]")
        if len(a) != len(b):
            return f"{place}.length", len(a), len(b)
    if isinstance(a, str) and isinstance(b, str) and max(len(a), len(b)) > _SHOWN_CHARS:
        start = next(
            (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
            min(len(a), len(b)),
        )
        stop = start + _SHOWN_CHARS
        return f"{place}[{start}:]", a[start:stop], b[start:stop]
    return place, a, b


def _facts(file: ModelFile) -> dict[str, object]:
    """Everything that the file states; what it leaves open is not in it."""
    stated = summarize_architecture(file).facts() | _tokenizer_facts(file)
    return {key: value for key, value in stated.items() if value is not None}


def _tokenizer_facts(file: ModelFile) -> dict[str, object]:
    """What it is; of none, or of one that is not understood, only that."""
    try:
        spec = read_tokenizer_spec(file.format, file.metadata)
    except NoTokenizerError:
        return {"tokenizer": "none"}
    except TokenizerError as error:
        return {"tokenizer": f"not understood: {error.problem} ({error.code})"}
    fields = (
        "kind",
        "pre_tokenizer",
        "tokens",
        "merges",
        "scores",
        "token_types",
        "bos_id",
        "eos_id",
        "unk_id",
        "pad_id",
        "add_bos",
        "chat_template",
    )
    facts = {f"tokenizer.{name}": getattr(spec, name) for name in fields}
    return {"tokenizer": "understood", **facts}


def _difference(key: str, a: object, b: object) -> ValueDifference:
    place, left, right = first_difference(a, b)
    return ValueDifference(key=key, place=place, a=_brief(left), b=_brief(right))


def _brief(value: object) -> object:
    """A value short enough to be shown."""
    if isinstance(value, str) and len(value) > _SHOWN_CHARS:
        return value[:_SHOWN_CHARS]
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"an object of {len(value)} keys"
    return value


def _same_key(a: Mapping[str, object], b: Mapping[str, object], key: str) -> bool:
    if key not in a or key not in b:
        return False
    if isinstance(a, GgufMetadata) and isinstance(b, GgufMetadata):
        return a.encoded(key) == b.encoded(key)  # bytes: no list is decoded for that
    return _identical(a[key], b[key])


def _identical(a: object, b: object) -> bool:
    """Equal, and of the same types: 1, 1.0 and true are three values."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_identical(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_identical, a, b))
    return type(a) is type(b) and a == b
