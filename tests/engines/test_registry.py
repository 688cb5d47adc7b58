"""How a command line names an engine."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.engines.registry import EngineName, create_engine, parse_engine_name
from cotejar.engines.spec import ENGINES
from cotejar.errors import MissingExtraError, UnknownEngineError

if TYPE_CHECKING:
    from pathlib import Path

ENGINE_NAMES = "native, oracle, llamacpp, transformers, recorded"
NATIVE = (
    "q8, f32, bf16, w8a8, q8-kvf16, q8-kvq8, f32-kvf16, f32-kvq8, bf16-kvf16, bf16-kvq8, "
    "w8a8-kvf16, w8a8-kvq8"
)
USAGE = "[ENGINE[+numerics][@device]:]PATH, for example native+f32:model.gguf"


def named(engine: str, numerics: str, path: str, device: str = "cpu") -> EngineName:
    return EngineName(engine=engine, numerics=numerics, device=device, path=path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model.gguf", named("native", "q8", "model.gguf")),
        ("/a/b c/model.gguf", named("native", "q8", "/a/b c/model.gguf")),
        ("demo:smollm2", named("native", "q8", "demo:smollm2")),
        ("native:model.gguf", named("native", "q8", "model.gguf")),
        ("native+f32:model.apr", named("native", "f32", "model.apr")),
        ("native+q8@cpu:model.apr", named("native", "q8", "model.apr")),
        ("oracle:demo:smollm2", named("oracle", "f64", "demo:smollm2")),
        ("oracle@cpu:m", named("oracle", "f64", "m")),
        ("native:a:b", named("native", "q8", "a:b")),
        ("recorded:run.trace", named("recorded", "", "run.trace", "")),
        ("./oracle:x", named("native", "q8", "./oracle:x")),
        ("", named("native", "q8", "")),
        ("native:", named("native", "q8", "native:")),
    ],
)
def test_a_name_is_read(text: str, name: EngineName) -> None:
    assert parse_engine_name(text) == name


def test_only_a_recorded_trace_is_recorded() -> None:
    assert parse_engine_name("recorded:run.trace").is_recorded
    assert not parse_engine_name("run.trace").is_recorded


@pytest.mark.parametrize(
    ("text", "problem", "expected", "found", "meant"),
    [
        ("nativ:m.gguf", "engine 'nativ'", ENGINE_NAMES, "nativ", "native"),
        ("Native:m.gguf", "engine 'Native'", ENGINE_NAMES, "Native", "native"),
        ("ORACLE:demo:smollm2", "engine 'ORACLE'", ENGINE_NAMES, "ORACLE", "oracle"),
        ("Recorded:run.trace", "engine 'Recorded'", ENGINE_NAMES, "Recorded", "recorded"),
        ("Demo:smollm2", "engine 'Demo'", ENGINE_NAMES, "Demo", "demo"),
        ("gguf:m.gguf", "engine 'gguf'", ENGINE_NAMES, "gguf", None),
        ("demo+f32:smollm2", "engine 'demo'", ENGINE_NAMES, "demo", None),
        (
            "native+F32:m.gguf",
            "numerics of native 'F32'",
            NATIVE,
            "F32",
            "f32",
        ),
        (
            "native+f-32:m.gguf",
            "numerics of native 'f-32'",
            NATIVE,
            "f-32",
            "f32",
        ),
        (
            "native+i4:m.gguf",
            "numerics of native 'i4'",
            NATIVE,
            "i4",
            None,
        ),
        (
            "native+:m.gguf",
            "numerics of native ''",
            NATIVE,
            "",
            None,
        ),
        ("oracle+i8:m.gguf", "numerics of oracle 'i8'", "f64", "i8", None),
        ("native@cuda:m.gguf", "device of native 'cuda'", "cpu", "cuda", None),
        ("native@CPU:m.gguf", "device of native 'CPU'", "cpu", "CPU", "cpu"),
    ],
)
def test_what_there_is_not_is_refused(
    text: str, problem: str, expected: str, found: str, meant: str | None
) -> None:
    with pytest.raises(UnknownEngineError) as caught:
        parse_engine_name(text)

    assert str(caught.value) == (
        f"error[APR-U005]: there is no {problem}\n"
        f"  where     {text}\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        f"  try       {f'did you mean {meant}? ' if meant else ''}{USAGE}"
    )


@pytest.mark.parametrize("text", ["recorded+f32:run.trace", "recorded@cpu:run.trace"])
def test_a_recorded_trace_takes_no_numerics_and_no_device(text: str) -> None:
    with pytest.raises(UnknownEngineError) as caught:
        parse_engine_name(text)

    assert str(caught.value) == (
        "error[APR-U005]: a recorded trace has its numerics and its device already\n"
        f"  where     {text}\n"
        "  expected  recorded:run.trace\n"
        f"  found     {text.removesuffix(':run.trace')}\n"
        "  try       `apr trace recorded:PATH` shows what it was recorded with"
    )


def test_a_file_that_is_there_may_have_a_colon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("odd:name", "native+F32:name", "oracle:name"):
        (tmp_path / name).touch()

    assert parse_engine_name("odd:name") == named("native", "q8", "odd:name")
    assert parse_engine_name("native+F32:name") == named("native", "q8", "native+F32:name")
    assert parse_engine_name("oracle:name") == named("oracle", "f64", "name")


def test_a_name_too_long_for_a_path_is_an_unknown_engine() -> None:
    with pytest.raises(UnknownEngineError):
        parse_engine_name("x:" + "y" * 100_000)


INSTALLED = [
    spec for spec in ENGINES.values() if all(map(importlib.util.find_spec, spec.packages))
]


@pytest.mark.parametrize(
    ("name", "numerics"),
    [  # a process takes a while to start: of one that has its own, the default
        (spec.name, n)
        for spec in INSTALLED
        for n in spec.numerics[: 1 if spec.isolated else None]
    ],
)
def test_every_engine_in_the_table_can_be_made(tiny: Any, name: str, numerics: str) -> None:
    engine = create_engine(parse_engine_name(f"{name}+{numerics}:x"), tiny())

    assert (engine.info.name, engine.info.numerics) == (name, numerics)
    assert engine.info.build


def test_an_engine_without_its_package_says_what_installs_it(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = replace(ENGINES["llamacpp"], packages=("no_such_package",))
    monkeypatch.setitem(ENGINES, "llamacpp", lacking)

    with pytest.raises(MissingExtraError) as caught:
        create_engine(parse_engine_name("llamacpp:x"), tiny())

    assert str(caught.value) == (
        "error[APR-U006]: the engine llamacpp is not installed\n"
        "  where     engine llamacpp\n"
        "  expected  the package no_such_package\n"
        "  found     no such package in this Python\n"
        "  try       pip install 'cotejar[llamacpp]'"
    )
    assert caught.value.exit_code == 2


def test_only_generating_engines_can_start_a_session(tiny: Any) -> None:
    model = tiny()

    for spec in INSTALLED:
        engine = create_engine(parse_engine_name(f"{spec.name}:x"), model)
        assert hasattr(engine, "start") is spec.generates


def test_the_table_loads_no_engine() -> None:
    code = (
        "import sys, cotejar.engines.registry\n"
        "print([m for m in sys.modules if m.startswith('cotejar.engines.')])"
    )

    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )

    assert run.stdout == "['cotejar.engines.spec', 'cotejar.engines.registry']\n"
