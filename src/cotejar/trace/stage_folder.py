"""A folder of upstream's stage files, read as a recorded trace.

`apr trace --save-tensor all` of upstream's writes DIR/layer-N/STAGE.bin for what belongs to
a layer and DIR/STAGE.bin for what does not; `formats.apr.stage_file` has the file's layout.

A stage file holds a layer and values, and no shape. So the trace has statistics, and no
arrays; and it knows neither which tokens were run nor which of them a stage covers, where
exactly a stage was read, the configuration, or the weights. All of that stays unknown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

from cotejar.errors import TraceError
from cotejar.formats.apr.stage_file import read_stage_file
from cotejar.model.config import MAX_LAYERS
from cotejar.trace.forward_trace import (
    UNKNOWN,
    EngineInfo,
    ForwardTrace,
    ModelInfo,
    Scope,
    SiteRecord,
    in_forward_order,
)
from cotejar.trace.manifest import UNKNOWN_SHAPE
from cotejar.trace.site import SLOTS, Site
from cotejar.trace.stats import measure_stats

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STAGE_SLOTS = {
    "embedding": "embed",
    "attn_norm": "attn_norm",
    "qkv_bias": "qkv",
    "q_post_rope": "q_rope",
    "k_post_rope": "k_rope",
    "attention": "attn_context",
    "attn_out": "attn_out",
    "post_attn_residual": "attn_residual",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "ffn_gate",
    "ffn_up": "ffn_up",
    "ffn_silu": "ffn_silu_gate",
    "ffn_swigl": "ffn_swiglu_inner",
    "ffn_out": "ffn_out",
    "post_ffn_residual": "output",
    "layer_output": "output",
    "final_norm": "final_norm",
    "lm_head": "logits",
}
"""Upstream's stages, and the slot that each is."""

STAGES_WITHOUT_SLOT = ("qkv_matmul", "attn_scores", "attn_softmax", "moe_router", "moe_ffn_out")
"""Stages of upstream's that no slot of ours is: left out, and named in the trace's host."""

_LAYER_FOLDER = re.compile(r"layer-(0|[1-9][0-9]{0,5})")
_SUFFIX = ".bin"
_MAX_ENTRIES = 64
"""Of one folder below DIR, several times the stages there are."""
_HINT = "save the stages again: `apr trace MODEL --save-tensor all --save-tensor-dir DIR`"


def read_stage_folder(folder: Path) -> ForwardTrace:
    """Read the statistics of every stage file in a folder, each file once.

    Raises:
        FormatError: a stage file is damaged; see `read_stage_file`.
        FileError: a file cannot be read.
        TraceError: a stage that nobody has named, one site twice, a file whose layer is not
            its folder's, a link that leads out of the folder, or no stage at all.
    """
    sites: dict[str, SiteRecord] = {}
    paths: dict[str, Path] = {}
    left_out: list[str] = []
    for path, layer in _stage_files(folder):
        stage = path.name.removesuffix(_SUFFIX)
        if stage in STAGES_WITHOUT_SLOT:
            left_out.append(str(path.relative_to(folder)))
            continue
        site = _site(path, stage, layer)
        name = str(site)
        if name in paths:
            _refuse("one site twice", path, "each site once", f"{name} in {paths[name].name}")
        paths[name] = path
        sites[name] = _read_site(path, site)
    if not sites:
        _refuse("no stage", folder, "layer-N/STAGE.bin or STAGE.bin", "none with a slot")
    return ForwardTrace(
        engine=EngineInfo(name="upstream", build=UNKNOWN, numerics=UNKNOWN, device=UNKNOWN),
        model=ModelInfo(
            name=folder.name, format="APRT stages", architecture=UNKNOWN, fingerprint=""
        ),
        config={},
        token_ids=(),
        positions=(),
        prompt=None,
        sites=in_forward_order(sites),
        not_observed=frozenset(SLOTS) - set(STAGE_SLOTS.values()),
        host={"stages without a slot": " ".join(left_out)} if left_out else {},
    )


def _stage_files(folder: Path) -> Iterator[tuple[Path, int | None]]:
    """Every stage file with its folder's layer, in the order of names."""
    root = folder.resolve()
    for entry in _entries(folder, MAX_LAYERS + _MAX_ENTRIES):
        match = _LAYER_FOLDER.fullmatch(entry.name)
        _require_inside(entry, root)
        if match and entry.is_dir():
            for path in _entries(entry, _MAX_ENTRIES):
                _require_inside(path, root)
                if path.name.endswith(_SUFFIX):
                    yield path, int(match[1])
        elif entry.name.endswith(_SUFFIX):
            yield entry, None
        elif entry.name.startswith("layer-"):
            _refuse("a folder of no layer", entry, "layer-N, N from 0", entry.name)


def _entries(folder: Path, most: int) -> list[Path]:
    entries = []
    try:
        for entry in folder.iterdir():
            entries.append(entry)
            if len(entries) > most:
                _refuse("too many files", folder, f"at most {most} entries", f"{most + 1}")
    except OSError as error:
        _refuse("a folder cannot be read", folder, "a folder", str(error.strerror))
    return sorted(entries)


def _require_inside(path: Path, root: Path) -> None:
    """Refuse what a link brings in from outside."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        _refuse("a link that leads nowhere", path, "a file of the folder", str(error)[:80])
    if not target.is_relative_to(root):
        _refuse("a link out of the folder", path, f"a file inside {root}", str(target))


def _site(path: Path, stage: str, layer: int | None) -> Site:
    slot = STAGE_SLOTS.get(stage)
    if slot is None:
        known = " ".join((*STAGE_SLOTS, *STAGES_WITHOUT_SLOT))
        _refuse("a stage that nobody has named", path, known, stage)
    if (slot in SLOTS) != (layer is not None):
        where = "in a folder layer-N" if slot in SLOTS else "beside the layers' folders"
        found = "outside" if layer is None else f"layer-{layer}"
        _refuse("a stage in the wrong folder", path, where, found)
    return Site(slot, layer)


def _read_site(path: Path, site: Site) -> SiteRecord:
    stage = read_stage_file(path)
    if stage.layer != site.layer:
        _refuse(
            "the file is of another layer than its folder",
            path,
            _layer_text(site.layer),
            _layer_text(stage.layer),
        )
    if not stage.values.size:
        _refuse("a stage without a value", path, "at least 1 value", "0")
    return SiteRecord(
        site=site,
        capture_point=UNKNOWN,
        dtype="float32",
        shape=UNKNOWN_SHAPE,
        stats={Scope.UNKNOWN: measure_stats(stage.values)},
    )


def _layer_text(layer: int | None) -> str:
    return "no layer" if layer is None else f"layer {layer}"


def _refuse(problem: str, path: Path, expected: str, found: str) -> NoReturn:
    raise TraceError(
        f"this is no folder of stages: {problem}",
        where=str(path),
        expected=expected,
        found=found,
        hint=_HINT,
    )
