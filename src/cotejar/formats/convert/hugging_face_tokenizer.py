"""`tokenizer.json` of Hugging Face -> the flat tokenizer keys of `.apr`.

The keys are those that a GGUF of the same model would give (`from_gguf`), so that one
reader serves both. Two kinds are known: byte-level BPE (`gpt2`), and BPE over characters
with a byte fallback (`llama`), which is how SentencePiece models are saved. Of the second
kind the scores are lost in `tokenizer.json`; the order of the merges has the same effect,
so minus the rank of the merge that makes a token stands for its score.

GGUF names the way a text is cut into words, `tokenizer.json` spells it out: the spellings
of the known ones are compared. Another one is named `unknown`, which any reader refuses,
for a guess would give other ids without a word.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

from cotejar.errors import MetadataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_TOKENS = 1 << 24
"""More than any vocabulary; ids are used as list indices."""
UNKNOWN_PRE_TYPE = "unknown"

_FILE = "tokenizer.json"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")

_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_PRE_TYPES: dict[tuple[str, ...], str] = {
    (rf"Split {_WORDS}|\p{{N}}|{_TAIL}", "ByteLevel"): "qwen2",
    (rf"Split {_WORDS}|\p{{N}}{{1,3}}|{_TAIL}", "ByteLevel"): "llama-bpe",
    ("Digits", "ByteLevel regex"): "smollm",
    ("ByteLevel regex",): "gpt-2",
    (
        r"Split [\r\n]",
        r"Split \s?\p{L}+",
        r"Split \s?\p{P}+",
        "Split [\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
        "Digits",
        "ByteLevel",
    ): "deepseek-coder",
}


def read_tokenizer_keys(metadata: Mapping[str, object]) -> dict[str, object]:
    """The flat keys; empty where there is no tokenizer of a known kind.

    Args:
        metadata: of a `SafetensorsFile`.

    Raises:
        MetadataError: `tokenizer.json` is malformed.
    """
    content = metadata.get(_FILE)
    if not isinstance(content, dict):
        return {}
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        return {}
    tokens, types, ids = _read_vocabulary(content, model)
    merges = _read_merges(model.get("merges"))
    keys: dict[str, object] = {
        "tokenizer.vocabulary": tokens,
        "tokenizer.merges": merges,
        "tokenizer.token_type": types,
    }
    steps = tuple(_pre_tokenizer_steps(content.get("pre_tokenizer")))
    if model.get("byte_fallback") is True:
        keys["tokenizer.model"] = "llama"
        keys["tokenizer.scores"] = _scores(merges, ids, len(tokens))
        keys["tokenizer.add_space_prefix"] = _prepends_space(content)
    else:
        keys["tokenizer.model"] = "gpt2"
        keys["tokenizer.pre_type"] = _PRE_TYPES.get(steps, UNKNOWN_PRE_TYPE)
    return keys | _special_ids(metadata, content, ids)


def _read_vocabulary(
    content: Mapping[str, object], model: Mapping[str, object]
) -> tuple[list[str], list[int], dict[str, int]]:
    """Tokens and types by id, and ids by token. A gap is UNUSED."""
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict):
        _refuse("model.vocab", "an object of ids by token", vocabulary)
    added = _read_added(content.get("added_tokens") or [])
    ids = dict(vocabulary) | {token: token_id for token, token_id, _ in added}
    if set(map(type, ids)) - {str} or set(map(type, ids.values())) - {int}:
        _refuse("model.vocab", "whole numbers by text", "something else among them")
    if not ids or min(ids.values()) < 0 or max(ids.values()) >= MAX_TOKENS:
        _refuse("model.vocab", f"ids within 0..{MAX_TOKENS - 1}", f"{len(ids)} tokens")
    num_tokens = max(ids.values()) + 1
    tokens = [f"[PAD{i}]" for i in range(num_tokens)]
    types = [_UNUSED] * num_tokens
    for token, i in ids.items():
        tokens[i] = token
        types[i] = _BYTE if _BYTE_TOKEN.fullmatch(token) else _NORMAL
    has_bytes = model.get("byte_fallback") is True
    for token, token_id, is_special in added:
        types[token_id] = _CONTROL if is_special else _USER_DEFINED
        if has_bytes and not is_special:
            # Gemma's runs of spaces: what is cut out of a text is spelled as the text has it.
            tokens[token_id] = token.replace("\u2581", " ")
    unknown = ids.get(str(model.get("unk_token")))
    if unknown is not None and has_bytes:
        types[unknown] = _UNKNOWN
    return tokens, types, ids


def _read_added(value: object) -> list[tuple[str, int, bool]]:
    """Tokens beside the vocabulary: what each is, its id, and whether it is special."""
    added = []
    for entry in value if isinstance(value, list) else [value]:
        match entry:
            case {"content": str(token), "id": int(token_id)}:
                added.append((token, token_id, entry.get("special") is True))
            case _:
                _refuse("added_tokens", '[{"content": "<s>", "id": 1}, ...]', entry)
    return added


def _read_merges(value: object) -> list[str]:
    """Merges as `"a b"`; newer files have `["a", "b"]`."""
    if not isinstance(value, list):
        _refuse("model.merges", "a list", value)
    merges = []
    for merge in value:
        match merge:
            case str():
                merges.append(merge)
            case [str(left), str(right)]:
                merges.append(f"{left} {right}")
            case _:
                _refuse("model.merges", 'pairs: ["a", "b"] or "a b"', merge)
    return merges


def _scores(merges: list[str], ids: Mapping[str, int], num_tokens: int) -> list[float]:
    scores = [0.0] * num_tokens
    for rank, merge in reversed(list(enumerate(merges))):  # the first merge counts
        left, _, right = merge.partition(" ")
        token_id = ids.get(left + right)
        if token_id is not None:
            scores[token_id] = -float(rank)
    return scores


def _pre_tokenizer_steps(value: object) -> Iterator[str]:
    """Each step in a line: what it is, and the setting that makes a difference."""
    if not isinstance(value, dict):
        return
    kind = value.get("type")
    if kind == "Sequence":
        inner = value.get("pretokenizers")
        for step in inner if isinstance(inner, list) else []:
            yield from _pre_tokenizer_steps(step)
    elif kind == "Split":
        pattern = value.get("pattern")
        yield f"Split {pattern.get('Regex') if isinstance(pattern, dict) else pattern}"
    elif kind == "ByteLevel":
        yield "ByteLevel regex" if value.get("use_regex", True) else "ByteLevel"
    elif kind == "Digits" and value.get("individual_digits") is not True:
        yield "Digits in groups"
    else:
        yield str(kind)


def _prepends_space(content: Mapping[str, object]) -> bool:
    text = f"{content.get('normalizer')}{content.get('pre_tokenizer')}"
    return "'Prepend'" in text or ("'Metaspace'" in text and "'never'" not in text)


def _special_ids(
    metadata: Mapping[str, object], content: Mapping[str, object], ids: Mapping[str, int]
) -> dict[str, object]:
    """Special ids by their token in tokenizer_config.json, else by number in config.json."""
    settings = metadata.get("tokenizer_config.json")
    settings = settings if isinstance(settings, dict) else {}
    config = metadata.get("config")
    config = config if isinstance(config, dict) else {}
    keys: dict[str, object] = {}
    for name, ours in (
        ("bos", "bos"),
        ("eos", "eos"),
        ("unk", "unknown"),
        ("pad", "padding"),
    ):
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        number = config.get(f"{name}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        token_id = ids.get(token) if isinstance(token, str) else number
        if type(token_id) is int:  # a bool is no id
            keys[f"tokenizer.{ours}_token_id"] = token_id
    for flag in ("add_bos_token", "add_eos_token"):
        if isinstance(settings.get(flag), bool):
            keys[f"tokenizer.{flag}"] = settings[flag]
    bos = keys.get("tokenizer.bos_token_id")
    if "tokenizer.add_bos_token" not in keys and bos is not None:
        keys["tokenizer.add_bos_token"] = bos in _template_ids(content, ids)
    return keys


def _template_ids(content: Mapping[str, object], ids: Mapping[str, int]) -> set[int]:
    """The special tokens that the post-processor puts around one text."""
    pending, found = [content.get("post_processor")], set()
    while pending:
        step = pending.pop()
        match step:
            case {"type": "Sequence", "processors": list(inner)}:
                pending += inner
            case {"type": "TemplateProcessing", "single": list(single)}:
                for part in single:
                    match part:
                        case {"SpecialToken": {"id": str(token)}} if token in ids:
                            found.add(ids[token])
                        case _:
                            pass
            case _:
                pass
    return found


def _refuse(field: str, expected: str, found: object) -> NoReturn:
    raise MetadataError(
        "the tokenizer is malformed",
        where=f"{_FILE}, {field}",
        expected=expected,
        found=f"{found!r:.80}",
        hint="the file is damaged: fetch it again",
    )
