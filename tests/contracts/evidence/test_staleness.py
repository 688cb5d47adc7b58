"""A record is stale by each cause, and by nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from cotejar.contracts.evidence.fingerprint import model_names
from cotejar.contracts.evidence.staleness import stale_reasons


@pytest.fixture
def record(bench: Any) -> Any:
    (bench.root / "tests").mkdir()
    (bench.root / "tests" / "test_x.py").write_text("def test_x(): pass\n")
    (bench.root / "model.gguf").write_bytes(b"weights")
    words = ("pytest", "-q", "tests/test_x.py::test_x")
    return bench.test("pytest").record(words=words, models=("model.gguf",))


def reasons(bench: Any, record: Any) -> tuple[str, ...]:
    return stale_reasons(record, bench.contract, bench.fingerprints())


def test_a_new_record_is_fresh(bench: Any, record: Any) -> None:
    assert reasons(bench, record) == ()


def test_a_changed_formula_makes_it_stale(bench: Any, record: Any) -> None:
    bench.blocks["equations"]["e"]["formula"] = "y = x + 1"
    bench.save()

    assert reasons(bench, record) == ("the contract changed",)


def test_a_changed_type_of_a_value_makes_it_stale(bench: Any, record: Any) -> None:
    text = bench.file.read_text()
    bench.file.write_text(text.replace('"p"', '"1"', 1))
    quoted = bench.record()
    bench.file.write_text(text.replace('"p"', "1", 1))

    assert "the contract changed" in reasons(bench, quoted)


def test_claims_comments_and_order_do_not_make_it_stale(bench: Any, record: Any) -> None:
    bench.blocks["status"] = "SHIPPED"
    bench.blocks["verification_summary"] = {"total_obligations": 1, "l2_property_tested": 1}
    bench.blocks["falsification_tests"][0]["discharge_status"] = "DISCHARGED"
    bench.blocks["metadata"] = dict(reversed(bench.blocks["metadata"].items()))
    bench.save()
    bench.file.write_text(bench.file.read_text() + "# a comment\n")

    assert reasons(bench, record) == ()


@pytest.mark.parametrize("name", ["tests/test_x.py", "tests/conftest.py", "conftest.py"])
def test_a_changed_test_or_conftest_makes_it_stale(bench: Any, record: Any, name: str) -> None:
    with (bench.root / name).open("a") as file:
        file.write("# another\n")

    assert reasons(bench, record) == ("the test changed",)


def test_a_removed_test_makes_it_stale(bench: Any, record: Any) -> None:
    (bench.root / "tests" / "test_x.py").unlink()

    assert reasons(bench, record) == ("the test changed",)


def test_another_test_beside_it_does_not(bench: Any, record: Any) -> None:
    (bench.root / "tests" / "test_y.py").write_text("")

    assert reasons(bench, record) == ()


def test_a_folder_stands_for_its_files(bench: Any, record: Any) -> None:
    whole = bench.record(words=("pytest", "tests"))
    (bench.root / "tests" / "test_y.py").write_text("")

    assert reasons(bench, whole) == ("the test changed",)


@pytest.mark.parametrize("change", ["edit", "add", "rename"])
def test_changed_code_makes_it_stale(bench: Any, record: Any, change: str) -> None:
    code = bench.root / "src" / "code.py"
    if change == "edit":
        code.write_text("x = 2\n")
    elif change == "add":
        (bench.root / "src" / "more.py").write_text("")
    else:
        code.rename(bench.root / "src" / "renamed.py")

    assert reasons(bench, record) == ("the code changed",)


def test_byte_code_and_built_libraries_are_no_code(bench: Any, record: Any) -> None:
    (bench.root / "src" / "__pycache__").mkdir()
    (bench.root / "src" / "__pycache__" / "code.pyc").write_bytes(b"1")
    (bench.root / "src" / "kernels.so").write_bytes(b"1")

    assert reasons(bench, record) == ()


def test_one_changed_byte_of_a_model_makes_it_stale(bench: Any, record: Any) -> None:
    (bench.root / "model.gguf").write_bytes(b"weightz")

    assert reasons(bench, record) == ("the model model.gguf changed",)


def test_an_absent_model_makes_it_stale(bench: Any, record: Any) -> None:
    (bench.root / "model.gguf").unlink()

    assert reasons(bench, record) == ("the model model.gguf is not there to compare",)


def test_a_variable_in_a_models_name_is_recorded_as_written(
    bench: Any, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS", str(bench.root))
    named = bench.record(models=("$MODELS/model.gguf",))
    here = reasons(bench, named)
    monkeypatch.setenv("MODELS", str(bench.root / "src"))

    assert (list(named.stamp.models), here) == (["$MODELS/model.gguf"], ())
    assert reasons(bench, named) == ("the model $MODELS/model.gguf is not there to compare",)


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_says_nothing_names_no_model(
    bench: Any, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("MODEL", raising=False)
    if value is not None:
        monkeypatch.setenv("MODEL", value)

    assert bench.fingerprints().find_model("$MODEL") is None


def test_a_model_folder_is_hashed_by_its_files(bench: Any) -> None:
    folder = bench.root / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    record = bench.record(models=("model",))
    (folder / "config.json").write_text('{"a": 1}')

    assert reasons(bench, record) == ("the model model changed",)


def test_every_cause_is_named_at_once(bench: Any, record: Any) -> None:
    bench.blocks["equations"]["e"]["formula"] = "y = 2 * x"
    bench.save()
    (bench.root / "tests" / "test_x.py").write_text("")
    (bench.root / "src" / "code.py").write_text("")
    (bench.root / "model.gguf").write_text("")

    assert reasons(bench, record) == (
        "the contract changed",
        "the test changed",
        "the code changed",
        "the model model.gguf changed",
    )


def test_models_are_found_in_a_commands_words() -> None:
    words = ("apr", "diff", "oracle:demo:smollm2", "native+f32@cpu:out/m.apr", "--x=y.gguf")

    assert model_names(words) == ("demo:smollm2", "out/m.apr", "y.gguf")


def test_a_name_longer_than_the_system_takes_is_no_model(bench: Any) -> None:
    assert bench.fingerprints().find_model("x" * 5000 + ".gguf") is None
    assert bench.fingerprints().find_model("a\0b.gguf") is None
