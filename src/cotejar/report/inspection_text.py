"""An inspection for people: what the file is, what is in it, and its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cotejar.files.inspection import Inspection, StageInspection, TraceInspection
from cotejar.report.metadata_text import describe
from cotejar.report.tables import (
    Column,
    heading,
    output_width,
    render_pairs,
    render_table,
    visible,
    with_unit,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.files.inspection import FileInspection

_TYPE_COLUMNS = (
    Column("type"),
    Column("tensors", is_number=True),
    Column("values", is_number=True),
    Column("bytes", is_number=True),
    Column("share", is_number=True),
)
_FORMATS = {"gguf": "GGUF version", "apr": "APR version", "safetensors": "safetensors"}
_PAIRINGS = {"halves": "pairs lie half a head apart", "adjacent": "pairs are neighbours"}
_TOKENS_SHOWN = 20
_SPECIAL_TYPES = {2: "unknown", 3: "control", 4: "user defined"}


def inspection_lines(inspection: FileInspection, *, with_vocab: bool = False) -> Iterator[str]:
    """The text of `apr inspect`."""
    yield heading(visible(str(inspection.path)))
    if isinstance(inspection, TraceInspection):
        yield from _trace_lines(inspection)
    elif isinstance(inspection, StageInspection):
        yield from _stage_lines(inspection)
    else:
        yield from _model_lines(inspection, with_vocab=with_vocab)


def _model_lines(found: Inspection, *, with_vocab: bool) -> Iterator[str]:
    width = output_width()
    yield from render_pairs(_file_pairs(found), width)
    yield ""
    yield heading("Architecture")
    yield from render_pairs(_architecture_pairs(found), width)
    yield ""
    yield heading("Block types")
    total = sum(share.num_bytes for share in found.block_types) or 1
    rows = [
        (
            share.label,
            f"{share.num_tensors:,}",
            f"{share.num_values:,}",
            f"{share.num_bytes:,}",
            f"{share.num_bytes / total:.1%}",
        )
        for share in found.block_types
    ]
    yield from render_table(_TYPE_COLUMNS, rows, width)
    if len(found.parts) > 1:
        yield ""
        yield heading("Parts")
        columns = (
            Column("file"),
            Column("tensors", is_number=True),
            Column("bytes", is_number=True),
        )
        parts = [
            (visible(p.path.name), f"{p.num_tensors:,}", f"{p.size_bytes:,}")
            for p in found.parts
        ]
        yield from render_table(columns, parts, width)
    yield ""
    yield heading(f"Metadata ({len(found.metadata)} keys)")
    yield from render_pairs(_metadata_pairs(found.metadata), width)
    if with_vocab:
        yield ""
        yield from _vocab_lines(found)


def _metadata_pairs(metadata: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """A line a key; `config.json` has a line for each of its own."""
    for key, value in metadata.items():
        if key == "config" and isinstance(value, Mapping):
            for inner_key, inner in value.items():
                yield visible(f"config.{inner_key}"), describe(inner)
        else:
            yield visible(key), describe(value)


def _file_pairs(found: Inspection) -> Iterator[tuple[str, str]]:
    version = "" if found.format == "safetensors" else f" {found.format_version}"
    yield "format", _FORMATS[found.format] + version
    files = "" if len(found.parts) == 1 else f" in {len(found.parts)} files"
    yield "size", with_unit(found.size_bytes) + files
    values = sum(share.num_values for share in found.block_types)
    yield "tensors", f"{found.num_tensors:,}, {values:,} values"
    flags = [name for name, is_set in found.flags.items() if is_set]
    yield "flags", ", ".join(flags) or "none"
    yield "checksum", _checksum_text(found)
    if found.verified:
        for part in found.parts:
            yield "sha256", f"{part.sha256}" + (f"  {visible(part.path.name)}" if files else "")


def _checksum_text(found: Inspection) -> str:
    if found.checksum_valid:
        return "header and whole file are right"
    if found.format == "apr":
        return "header is right; the whole file was not checked (--verify)"
    name = _FORMATS[found.format].removesuffix(" version")
    read = "; every byte was read" if found.verified else ""
    return f"{name} has none{read}"


def _architecture_pairs(found: Inspection) -> Iterator[tuple[str, str]]:
    known = found.architecture
    yield (
        "architecture",
        "the file does not say" if known.architecture is None else visible(known.architecture),
    )
    for label, size in (
        ("layers", known.num_layers),
        ("hidden size", known.hidden_size),
        ("query heads", known.num_heads),
        ("key/value heads", known.num_kv_heads),
        ("head size", known.head_dim),
        ("feed-forward", known.ffn_size),
        ("vocabulary", known.vocab_size),
        ("context", known.context_length),
    ):
        if size is not None:
            yield label, f"{size:,}"
    if known.rms_eps is not None:
        yield "RMSNorm epsilon", f"{known.rms_eps:.7g}"
    rope = [] if known.rope_theta is None else [f"theta {known.rope_theta:,.7g}"]
    if known.rope_pairing is not None:
        rope.append(_PAIRINGS[known.rope_pairing])
    if rope:
        yield "RoPE", ", ".join(rope)
    yield "tokenizer", _tokenizer_text(found)
    yield "chat template", "yes" if found.has_chat_template else "none"


def _tokenizer_text(found: Inspection) -> str:
    facts = found.tokenizer
    if facts is None:
        return "none: the model runs from token ids only"
    parts = [facts.kind]
    if facts.pre_tokenizer:
        parts.append(f"pre-tokenizer {facts.pre_tokenizer}")
    if facts.num_tokens is not None:
        parts.append(f"{facts.num_tokens:,} tokens")
    return visible(", ".join(parts))


def _vocab_lines(found: Inspection) -> Iterator[str]:
    """The first tokens, and every special one."""
    metadata = found.metadata
    names = ("tokenizer.ggml.tokens", "tokenizer.vocabulary")
    tokens = next((metadata[name] for name in names if name in metadata), None)
    if not isinstance(tokens, list):
        yield heading("Vocabulary")
        yield "  the file has no list of tokens of its own"
        return
    types = metadata.get("tokenizer.ggml.token_type") or metadata.get("tokenizer.token_type")
    types = types if isinstance(types, list) and len(types) == len(tokens) else []
    yield heading(f"Vocabulary ({len(tokens):,} tokens)")
    rows = [
        (str(i), visible(repr(token)), _SPECIAL_TYPES.get(types[i], "") if types else "")
        for i, token in enumerate(tokens)
        if i < _TOKENS_SHOWN or (types and types[i] in _SPECIAL_TYPES)
    ]
    columns = (Column("id", is_number=True), Column("token"), Column("kind"))
    yield from render_table(columns, rows, output_width())
    yield f"  the first {_TOKENS_SHOWN} and the special ones; --json has all"


def _trace_lines(found: TraceInspection) -> Iterator[str]:
    trace, width = found.trace, output_width()
    ids = " ".join(map(str, trace.token_ids[:_TOKENS_SHOWN]))
    more = "" if len(trace.token_ids) <= _TOKENS_SHOWN else " ..."
    scopes = sorted({scope.value for site in trace.sites.values() for scope in site.stats})
    pairs = [
        ("format", "a trace"),
        ("size", with_unit(found.size_bytes)),
        ("engine", f"{trace.engine.name}+{trace.engine.numerics}@{trace.engine.device}"),
        ("build", trace.engine.build),
        ("model", f"{trace.model.name} ({trace.model.format}, {trace.model.architecture})"),
        ("fingerprint", trace.model.fingerprint),
        ("prompt", "none" if trace.prompt is None else repr(trace.prompt)),
        ("tokens", f"{len(trace.token_ids)}: {ids}{more}"),
        ("sites", f"{len(trace.sites)} in {trace.num_layers} layers"),
        ("scopes", ", ".join(scopes) or "none"),
        ("arrays", f"{len(trace.arrays)} of {len(trace.sites)} sites"),
        ("host", ", ".join(f"{key} {value}" for key, value in trace.host.items())),
    ]
    yield from render_pairs([(label, visible(value)) for label, value in pairs], width)
    yield ""
    yield heading(f"Configuration ({len(trace.config)} keys)")
    config = [(visible(key), describe(value)) for key, value in trace.config.items()]
    yield from render_pairs(config, width)


def _stage_lines(found: StageInspection) -> Iterator[str]:
    stats = found.stats
    pairs = [
        ("format", "a stage file (APRT)"),
        ("size", with_unit(found.size_bytes)),
        ("layer", "none" if found.layer is None else str(found.layer)),
        ("values", f"{stats.count:,}"),
        ("range", f"{stats.min:.6g} .. {stats.max:.6g}"),
        ("mean, std", f"{stats.mean:.6g}, {stats.std:.6g}"),
        ("not finite", f"{stats.nan_count:,} NaN, {stats.inf_count:,} infinite"),
    ]
    yield from render_pairs(pairs, output_width())
