"""Engines of other distributions: real folders on the path, with metadata as pip writes it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.engines.plugins import find_plugins, plugin_facts
from cotejar.engines.registry import find_engine, parse_engine_name
from cotejar.engines.spec import EngineSpec
from cotejar.errors import PluginError, UnknownEngineError
from cotejar.testing.tiny_models import write_tiny_gguf

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "plugin"


def install(folder: Path, name: str, entries: str, *, version: str = "1.0") -> None:
    """Write a distribution's metadata, as an installer leaves them beside its packages."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[cotejar.engines]\n{entries}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`site("broken", module text, entry)`: one distribution with one module, on the path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def make(name: str, text: str, entries: str) -> Path:
        module = f"plugin_{name}_{tmp_path.name}".replace("[", "_").replace("]", "_")
        module = re.sub(r"\W", "_", module)
        (folder / f"{module}.py").write_text(text)
        install(folder, f"cotejar-{name}", entries.replace("MODULE", module))
        return folder

    return make


SPEC = (
    "from cotejar.engines.spec import EngineSpec\n"
    "SPEC = EngineSpec(name={name!r}, target={target!r}, numerics={numerics!r}{more})\n"
)


def spec_text(
    name: object = "mine",
    target: object = "mine:Engine",
    numerics: object = ("f32",),
    more: str = "",
) -> str:
    return SPEC.format(name=name, target=target, numerics=numerics, more=more)


def refusal(name: str = "mine") -> PluginError:
    with pytest.raises(PluginError) as caught:
        parse_engine_name(f"{name}:model.gguf")
    return caught.value


def test_a_plugin_is_an_engine_in_a_process_of_its_own(site: Callable[..., Path]) -> None:
    site("mine", spec_text(numerics=("f32", "bf16")), "mine = MODULE:SPEC")

    name = parse_engine_name("mine+bf16:model.gguf")

    assert (name.engine, name.numerics, name.path) == ("mine", "bf16", "model.gguf")
    assert find_engine("mine") == EngineSpec(
        name="mine", target="mine:Engine", numerics=("f32", "bf16"), isolated=True
    )
    assert [(p.name, p.distribution) for p in find_plugins()] == [("mine", "cotejar-mine 1.0")]


def test_an_unknown_engine_is_told_the_plugins(site: Callable[..., Path]) -> None:
    site("mine", spec_text(), "mine = MODULE:SPEC")

    with pytest.raises(UnknownEngineError) as caught:
        parse_engine_name("mime:model.gguf")

    assert caught.value.parts["expected"].endswith("recorded, mine")
    assert caught.value.parts["try"].startswith("did you mean mine? ")


BROKEN = {
    "no module": ("", "mine = no_such_module_here:SPEC", "can be imported", "No module named"),
    "a module that raises": ("1 / 0", "mine = MODULE:SPEC", "imported", "ZeroDivisionError"),
    "a module that exits": ("raise SystemExit(3)", "mine = MODULE:SPEC", "", "SystemExit: 3"),
    "no attribute": ("", "mine = MODULE:SPEC", "imported", "has no attribute 'SPEC'"),
    "another object": ("SPEC = 7", "mine = MODULE:SPEC", "EngineSpec", "int"),
    "no attribute named": (spec_text(), "mine = MODULE", "`module:SPEC`", "'plugin_"),
    "another name": (spec_text(name="yours"), "mine = MODULE:SPEC", "named 'mine'", "'yours'"),
    "no target": (spec_text(target="mine"), "mine = MODULE:SPEC", "target", "'mine'"),
    "a target that is no text": (spec_text(target=3), "mine = MODULE:SPEC", "target", "3"),
    "no numerics": (spec_text(numerics=()), "mine = MODULE:SPEC", "numerics", "()"),
    "numerics a text": (spec_text(numerics="f32"), "mine = MODULE:SPEC", "numerics", "'f32'"),
    "numerics of signs": (
        spec_text(numerics=("f32@gpu",)),
        "mine = MODULE:SPEC",
        "numerics",
        "('f32@gpu',)",
    ),
    "an unknown slot": (
        spec_text(more=", not_observed=frozenset({'ffn_gat'})"),
        "mine = MODULE:SPEC",
        "not_observed",
        "frozenset({'ffn_gat'})",
    ),
    "a flag of text": (
        spec_text(more=", generates='yes'"),
        "mine = MODULE:SPEC",
        "generates: True or False",
        "'yes'",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_refused_with_its_distribution(
    site: Callable[..., Path], kind: str
) -> None:
    text, entry, expected, found = BROKEN[kind]
    site("mine", text, entry)

    error = refusal()

    assert error.problem == "the plugin 'mine' of cotejar-mine 1.0 cannot be used"
    assert expected in error.parts["expected"]
    assert found in error.parts["found"]
    assert error.parts["try"] == (
        "correct or uninstall cotejar-mine 1.0; other engines are not affected"
    )
    # Another engine is found as ever.
    assert parse_engine_name("oracle:model.gguf").engine == "oracle"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (spec_text(), None),
        ("print('{}')\n" + spec_text(), None),
        (
            "SPEC = 7",
            "expected a cotejar.engines.spec.EngineSpec, found int",
        ),
        (
            "import os; os.abort()",
            "expected a module that can be imported, found a process that ended, code -6",
        ),
        (
            "import os; os._exit(0)",
            "expected a module that can be imported, found a process that ended, code 0",
        ),
    ],
    ids=["sound", "one that prints", "no spec", "one that aborts", "one that exits"],
)
def test_the_list_says_what_is_wrong_and_survives_it(
    site: Callable[..., Path], text: str, problem: str | None
) -> None:
    site("mine", text, "mine = MODULE:SPEC")

    assert plugin_facts() == [
        {"name": "mine", "distribution": "cotejar-mine 1.0", "problem": problem}
    ]


def test_a_plugin_that_hangs_is_left_waiting(
    site: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site("mine", "import time; time.sleep(60)", "mine = MODULE:SPEC")
    monkeypatch.setattr("cotejar.engines.plugins._IMPORT_S", 0.2)

    (facts,) = plugin_facts()
    assert facts["problem"] == "expected a module that is imported within 0.2 s, found none"


def test_the_whole_message_of_a_refusal(site: Callable[..., Path]) -> None:
    site("mine", "SPEC = 7", "mine = MODULE:SPEC")
    (plugin,) = find_plugins()

    assert str(refusal()) == (
        "error[APR-U011]: the plugin 'mine' of cotejar-mine 1.0 cannot be used\n"
        f"  where     entry point mine = {plugin.target}, group cotejar.engines\n"
        "  expected  a cotejar.engines.spec.EngineSpec\n"
        "  found     int\n"
        "  try       correct or uninstall cotejar-mine 1.0; other engines are not affected"
    )


@pytest.mark.parametrize("name", ["native", "oracle", "recorded", "demo"])
def test_a_name_of_ours_stays_ours(site: Callable[..., Path], name: str) -> None:
    ours = find_engine(name)
    site("thief", spec_text(name=name), f"{name} = MODULE:SPEC")

    assert find_engine("native") is not None
    if name in {"native", "oracle"}:
        assert find_engine(name) is ours
    (facts,) = plugin_facts()
    assert facts == {
        "name": name,
        "distribution": "cotejar-thief 1.0",
        "problem": f"expected a name of its own, found {name!r}, which is ours",
    }


def test_two_distributions_with_one_name_are_both_refused(site: Callable[..., Path]) -> None:
    folder = site("mine", spec_text(), "mine = MODULE:SPEC")
    install(folder, "cotejar-other", find_plugins()[0].name + " = other:SPEC", version="2.0")

    error = refusal()

    assert error.problem == "the plugin 'mine' of cotejar-mine 1.0 cannot be used"
    assert error.parts["found"] == "'mine' in cotejar-other 2.0 too"


def test_of_one_distribution_in_two_versions_the_first_on_the_path_counts(
    site: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = site("mine", spec_text(), "mine = MODULE:SPEC")
    old = tmp_path / "old"
    install(old, "Cotejar_Mine", "mine = elsewhere:SPEC\nlost = elsewhere:SPEC", version="0.9")
    monkeypatch.setattr(sys, "path", [str(folder), str(old), *sys.path])

    assert [(p.name, p.distribution) for p in find_plugins()] == [("mine", "cotejar-mine 1.0")]
    assert find_engine("mine").name == "mine"


def test_metadata_that_nobody_can_read_offer_nothing(site: Callable[..., Path]) -> None:
    folder = site("mine", spec_text(), "mine = MODULE:SPEC")
    info = folder / "cotejar_bad-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(b"[cotejar.engines]\n\xff\xfe = =\n")

    assert [p.name for p in find_plugins()] == ["mine"]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documented example, installed beside a plugin that ends the process on import."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(EXAMPLE / "cotejar_echo", folder / "cotejar_echo")
    install(folder, "cotejar-echo", "echo = cotejar_echo:SPEC")
    (folder / "deadly.py").write_text("import os; os.abort()")
    install(folder, "cotejar-deadly", "deadly = deadly:SPEC")
    write_tiny_gguf(folder / "tiny.gguf")
    return folder


def apr(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from cotejar.cli.apr.main import main; main()", *args],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_is_compared_as_the_document_says(example: Path) -> None:
    run = apr(
        example, "parity", "oracle:tiny.gguf", "echo:tiny.gguf", "--tokens", "5,6,7", "--json"
    )

    facts: Any = json.loads(run.stdout)
    assert (run.returncode, facts["verdict"]) == (0, "PASS"), run.stderr
    assert facts["candidate"]["engine"] == "echo"
    assert facts["candidate"]["build"] == "cotejar-echo 1.0"
    # Rounded to float32, and so near the oracle but not it.
    assert not facts["bit_identical"]


def test_the_doctor_lists_plugins_and_what_is_wrong_with_them(
    example: Path, tmp_path: Path
) -> None:
    shutil.copytree(example / "cotejar_echo", tmp_path / "cotejar_echo")
    install(tmp_path, "cotejar-echo", "echo = cotejar_echo:SPEC")
    install(tmp_path, "cotejar-gone", "gone = gone:SPEC", version="2.1")

    run = apr(tmp_path, "doctor")

    assert run.returncode == 0
    assert [line for line in run.stdout.splitlines() if line.startswith("plugin")] == [
        "plugin   echo, cotejar-echo 1.0",
        "plugin   gone, cotejar-gone 2.1: expected gone:SPEC, which can be imported, found "
        "ModuleNotFoundError: No module named 'gone'",
    ]


def test_help_imports_no_plugin(example: Path) -> None:
    run = apr(example, "--help")

    assert run.returncode == 0
    assert "parity" in run.stdout


def test_the_document_shows_the_example_as_it_is() -> None:
    document = (REPOSITORY / "docs" / "plugins.md").read_text()
    project = (EXAMPLE / "pyproject.toml").read_text()
    blocks = re.findall(r"```\w+\n(.*?)```", document, re.DOTALL)

    assert blocks[0].strip() in project
    for block, file in zip(blocks[1:], ("__init__.py", "engine.py"), strict=True):
        assert block.strip() in (EXAMPLE / "cotejar_echo" / file).read_text()
