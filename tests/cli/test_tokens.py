"""`apr tokens`, and the tokens that `apr parity` names: defects planted in real files."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.testing.tiny_models import write_tiny_hugging_face

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def altered(source: Path, target: Path, before: bytes, after: bytes) -> Path:
    """A copy of a GGUF with bytes of its metadata replaced by as many others."""
    data = source.read_bytes()
    assert data.count(before) == 1, before
    assert len(before) == len(after)
    target.write_bytes(data.replace(before, after))
    return target


@pytest.fixture(scope="module")
def defective(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model with one defect of its tokenizer each."""
    folder = tmp_path_factory.mktemp("defective")
    text = (5).to_bytes(8, "little")
    flag = b"tokenizer.ggml.add_bos_token" + (7).to_bytes(4, "little")

    def merge(pair: str) -> bytes:
        return len(pair).to_bytes(8, "little") + pair.encode()

    # A merge across what only one of the two pre-tokenizers cuts: `(a` in place of `on`.
    token = altered(tiny_gguf, folder / "token.gguf", merge("on"), merge("(a"))
    joining = altered(token, folder / "joining.gguf", merge("o n"), merge("( a"))
    return {
        "joining": joining,
        "pre-tokenizer": altered(
            joining, folder / "pre.gguf", text + b"gpt-2", text + b"qwen2"
        ),
        "bos": altered(tiny_gguf, folder / "bos.gguf", flag + b"\0", flag + b"\1"),
        "merges": altered(
            tiny_gguf,
            folder / "merges.gguf",
            merge("t h") + merge("th e") + merge("i n") + merge("e r"),
            merge("e r") + merge("t h") + merge("th e") + merge("i n"),
        ),
    }


@pytest.mark.parametrize("kind", ["gguf", "apr", "hf"])
def test_one_tokenizer_in_every_container_passes(
    run_apr: Callable[..., Any], tiny_gguf: Path, tiny_apr: Path, tmp_path: Path, kind: str
) -> None:
    sides = {"gguf": tiny_gguf, "apr": tiny_apr, "hf": tmp_path / "hf"}
    write_tiny_hugging_face(tmp_path / "hf")

    done = run_apr("tokens", tiny_gguf, sides[kind])

    assert done.code == 0
    assert done.out.splitlines()[-1].startswith("PASS  equal ids in 176 cases, ")


def test_a_changed_pre_tokenizer_is_named(
    run_apr: Callable[..., Any], defective: dict[str, Path], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("x(and) end")

    done = run_apr(
        "tokens", defective["joining"], defective["pre-tokenizer"], "--corpus", corpus
    )

    assert done.code == 1
    assert "another pre-tokenizer: 'gpt-2' cuts '(' | 'a', 'qwen2' cuts '(a'" in done.out
    assert done.out.splitlines()[-1] == "FAIL  the ids differ in 3 of 3 cases"


def test_a_bos_that_one_side_adds_is_named(
    run_apr: Callable[..., Any], tiny_gguf: Path, defective: dict[str, Path]
) -> None:
    done = run_apr("tokens", tiny_gguf, defective["bos"])

    assert done.code == 1
    assert "the candidate alone adds BOS in front, 0 '<|endoftext|>'" in done.out


def test_a_swapped_merge_is_named(
    run_apr: Callable[..., Any], tiny_gguf: Path, defective: dict[str, Path], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("there\nher\n")

    done = run_apr("tokens", tiny_gguf, defective["merges"], "--corpus", corpus)

    assert done.code == 1
    assert "another table of merges: the first that differs is 0, 't h' against 'e r'" in (
        done.out
    )


def test_the_json_is_one_object(
    run_apr: Callable[..., Any], tiny_gguf: Path, defective: dict[str, Path]
) -> None:
    done = run_apr("tokens", tiny_gguf, defective["bos"], "--json")

    facts = json.loads(done.out)
    assert (done.code, facts["verdict"], facts["exit_code"]) == (1, "FAIL", 1)
    assert facts["num_differing"] == len(facts["differences"]) > 10
    assert {d["reason"] for d in facts["differences"]} == {
        "the candidate alone adds BOS in front, 0 '<|endoftext|>'"
    }


def test_a_corpus_of_nothing_measures_nothing(
    run_apr: Callable[..., Any], tiny_gguf: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").touch()

    done = run_apr("tokens", tiny_gguf, tiny_gguf, "--corpus", tmp_path / "empty.txt")

    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("error[APR-U009]: the corpus holds no text\n")


def test_a_missing_file_is_bad_input(run_apr: Callable[..., Any], tiny_gguf: Path) -> None:
    done = run_apr("tokens", tiny_gguf, "none.gguf")

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error[APR-F002]")


def test_parity_names_the_first_token_that_differs_in_the_same_words(
    run_apr: Callable[..., Any], defective: dict[str, Path]
) -> None:
    sides = defective["joining"], defective["pre-tokenizer"]

    done = run_apr("parity", *sides, "-p", "x(and) end", "--brief")

    assert done.code == 3
    (line,) = [line for line in done.out.splitlines() if "token-ids: " in line]
    assert line.startswith("  BROKEN  token-ids: 9 of 10 token ids differ, first at token 1, ")
    assert line.endswith("; another pre-tokenizer: 'gpt-2' cuts '(' | 'a', 'qwen2' cuts '(a'")


def test_parity_says_of_ids_that_were_given_what_it_said_before(
    run_apr: Callable[..., Any], defective: dict[str, Path]
) -> None:
    sides = defective["joining"], defective["pre-tokenizer"]

    done = run_apr("parity", *sides, "--tokens", "5,6", "--brief")

    assert "token-ids" not in done.out


def test_a_copy_elsewhere_is_the_same(
    run_apr: Callable[..., Any], tiny_gguf: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_gguf, tmp_path / "copy.gguf")

    assert run_apr("tokens", tiny_gguf, tmp_path / "copy.gguf", "--json").code == 0
