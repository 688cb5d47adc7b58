"""What each engine offers, before anything of it is loaded.

A target is text, so that nothing of an engine is imported until it is used.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """What an engine offers, before it is loaded."""

    name: str
    target: str
    """`module:Class`, called with (model, numerics=...)."""
    numerics: tuple[str, ...]
    """What it can compute in; the first is the default."""
    devices: tuple[str, ...] = ("cpu",)
    generates: bool = False
    """Can it continue a text, or only trace one?"""
    steps: bool = False
    """Can it trace tokens that are fed one at a time, over its KV cache?"""
    isolated: bool = False
    """Does it run in a process of its own, so that a crash of it takes nothing along?"""
    extra: str | None = None
    """What installs it: `pip install 'cotejar[EXTRA]'`."""
    packages: tuple[str, ...] = ()
    """Modules of other distributions that it cannot do without."""
    not_observed: frozenset[str] = frozenset()
    """Slots that it cannot read: listed in its traces, and never guessed."""


ENGINES = {
    spec.name: spec
    for spec in (
        EngineSpec(
            name="native",
            target="cotejar.engines.native.engine:NativeEngine",
            numerics=(
                *("q8", "f32", "bf16", "w8a8"),
                *("q8-kvf16", "q8-kvq8", "f32-kvf16", "f32-kvq8", "bf16-kvf16", "bf16-kvq8"),
                *("w8a8-kvf16", "w8a8-kvq8"),
            ),
            generates=True,
            steps=True,
        ),
        EngineSpec(
            name="oracle",
            target="cotejar.engines.oracle:OracleEngine",
            numerics=("f64",),
        ),
        EngineSpec(
            name="llamacpp",
            target="cotejar.engines.llamacpp.engine:LlamaCppEngine",
            numerics=("q8-kvf16", "q8-kvf16-flash", "q8"),
            generates=True,
            steps=True,
            isolated=True,
            extra="llamacpp",
            packages=("llama_cpp",),
            not_observed=frozenset({"ffn_silu_gate"}),  # one node with the product that follows
        ),
        EngineSpec(
            name="transformers",
            target="cotejar.engines.transformers.engine:TransformersEngine",
            numerics=("f32", "f64", "bf16"),
            generates=True,
            steps=True,
            isolated=True,
            extra="transformers",
            packages=("torch", "transformers"),
        ),
    )
}


RECORDED = "recorded"
"""A trace that was made before: it has a path and nothing to run."""


DEMO = "demo"
"""Stands before a model's name and is part of its path."""
