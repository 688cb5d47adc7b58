"""The difference that makes it bad is named, whatever cannot be decided on the way."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotejar.diagnosis.bisection import run as run_module
from cotejar.diagnosis.bisection.run import Bisection, BisectRequest, run_bisect
from cotejar.diagnosis.bisection.search import Found, Outcome, search
from cotejar.errors import UsageError
from cotejar.formats.convert.import_model import import_model
from cotejar.formats.gguf.writer import GgufTensor, write_gguf
from cotejar.formats.open_model import open_model
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

GOOD, BAD, UNDECIDED = Outcome.GOOD, Outcome.BAD, Outcome.UNDECIDED


@given(data=st.data(), size=st.integers(1, 40))
def test_where_good_turns_bad_is_found_in_few_tries(data: st.DataObject, size: int) -> None:
    guilty = data.draw(st.integers(1, size))
    tried: list[int] = []

    def try_state(count: int) -> Outcome:
        tried.append(count)
        return BAD if count >= guilty else GOOD

    found = search(size, try_state)

    assert isinstance(found, Found)
    assert (found.last_good, found.first_bad) == (guilty - 1, guilty)
    assert len(tried) == len(set(tried)) <= 2 + size.bit_length()


@given(data=st.data(), size=st.integers(1, 20))
def test_what_is_undecided_only_widens_the_answer(data: st.DataObject, size: int) -> None:
    guilty = data.draw(st.integers(1, size))
    unknown = data.draw(st.sets(st.integers(1, max(1, size - 1))))
    unknown -= {0, size}

    def try_state(count: int) -> Outcome:
        return UNDECIDED if count in unknown else BAD if count >= guilty else GOOD

    found = search(size, try_state)

    assert isinstance(found, Found)
    assert found.last_good < guilty <= found.first_bad
    assert found.last_good not in unknown
    assert found.first_bad not in unknown
    between = range(found.last_good + 1, found.first_bad)
    assert all(count in unknown for count in between), "no narrower answer was left untried"


@pytest.mark.parametrize("outcome", [BAD, UNDECIDED])
def test_a_good_side_that_is_not_good_ends_the_search(outcome: Outcome) -> None:
    assert search(3, lambda count: outcome if count == 0 else BAD) is outcome


@pytest.mark.parametrize("outcome", [GOOD, UNDECIDED])
def test_a_bad_side_that_is_not_bad_ends_the_search(outcome: Outcome) -> None:
    assert search(3, lambda count: outcome if count == 3 else GOOD) is outcome


# --- over models --------------------------------------------------------------------------


def changed(source: Path, target: Path, names: list[str]) -> Path:
    """The same GGUF with the first byte of some tensors' second block another."""
    with open_model(source) as file:
        tensors = []
        for entry in file.tensors.values():
            data = np.array(file.read_bytes(entry.name))
            if entry.name in names:
                data[entry.block_type.bytes_per_block + 8] ^= 1
            tensors.append(
                GgufTensor(
                    name=entry.name, block_type=entry.block_type, shape=entry.shape, data=data
                )
            )
        write_gguf(target, metadata=file.typed_metadata, tensors=tensors)  # type: ignore[attr-defined]
    return target


NAMES = ["blk.0.ffn_up.weight", "blk.1.attn_k.weight", "blk.1.ffn_down.weight"]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    good = write_tiny_gguf(tmp_path / "good.gguf", TinyDecoder(num_layers=3))
    return good, changed(good, tmp_path / "bad.gguf", NAMES)


def checker(folder: Path, guilty: str, clean: Path, *, skip: str = "") -> str:
    """A command: bad if a tensor is not the clean model's; undecided if another's is."""
    script = folder / "check.py"
    script.write_text(
        "import sys\n"
        "from cotejar.formats.open_model import open_model\n"
        f"a, b = open_model({str(clean)!r}), open_model(sys.argv[1])\n"
        "same = lambda n: (a.read_bytes(n) == b.read_bytes(n)).all()\n"
        f"skip = {skip!r}\n"
        "if skip and not same(skip) and same('blk.1.attn_k.weight'): sys.exit(125)\n"
        f"sys.exit(0 if same({guilty!r}) else 1)\n"
    )
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} {{}}"


def bisect(tmp_path: Path, good: object, bad: object, check: str, **more: Any) -> Bisection:
    settings = {"over": "tensors", "saved": tmp_path / "state.json"} | more
    return run_bisect(BisectRequest(good=str(good), bad=str(bad), check=check, **settings))


@pytest.mark.parametrize("guilty", NAMES)
def test_the_guilty_tensor_is_named(
    tmp_path: Path, pair: tuple[Path, Path], guilty: str
) -> None:
    found = bisect(tmp_path, *pair, checker(tmp_path, guilty, pair[0]))

    canonical = {
        "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj.weight",
        "blk.1.attn_k.weight": "model.layers.1.self_attn.k_proj.weight",
        "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
    }
    assert found.guilty == (canonical[guilty],)
    assert found.verdict is Verdict.PASS
    assert len(found.differences) == 3, "what is equal is no difference"


def test_layers_are_searched_as_wholes(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    check = checker(tmp_path, NAMES[2], pair[0])

    found = bisect(tmp_path, *pair, check, over="layers")

    assert found.differences == ("layer 0", "layer 1")
    assert found.guilty == ("layer 1",)


def test_two_apr_files_are_mixed_as_well(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    sides = [tmp_path / "good.apr", tmp_path / "bad.apr"]
    for source, target in zip(pair, sides, strict=True):
        import_model(source, target)
    with open_model(sides[0]) as file:
        name = next(n for n in file.tensors if "1.self_attn.k_proj" in n)

    found = bisect(tmp_path, *sides, checker(tmp_path, name, sides[0]))

    assert found.guilty == ("model.layers.1.self_attn.k_proj.weight",)


def test_metadata_is_a_difference_too(tmp_path: Path) -> None:
    good = write_tiny_gguf(tmp_path / "good.gguf", TinyDecoder())
    bad = write_tiny_gguf(tmp_path / "bad.gguf", TinyDecoder(rope_theta=5000.0))
    script = tmp_path / "c.py"
    script.write_text(
        "import sys\n"
        "from cotejar.model.language_model import open_language_model\n"
        "sys.exit(open_language_model(sys.argv[1]).config.rope.theta == 5000)\n"
    )

    found = bisect(tmp_path, good, bad, f"{sys.executable} {script} {{}}")

    assert found.guilty == ("metadata",)


def test_what_cannot_be_decided_is_passed_over(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    check = checker(tmp_path, NAMES[1], pair[0], skip=NAMES[2])

    found = bisect(tmp_path, *pair, check)

    assert found.verdict is Verdict.INCOMPARABLE
    assert len(found.guilty) == 2
    assert "model.layers.1.self_attn.k_proj.weight" in found.guilty


@pytest.mark.parametrize(
    ("code", "blocked"),
    [
        (1, "the good side is bad"),
        (125, "the good side is undecided"),
        (0, "the bad side is good"),
    ],
)
def test_ends_that_are_not_what_they_are_called_end_it(
    tmp_path: Path, pair: tuple[Path, Path], code: int, blocked: str
) -> None:
    command = f'{sys.executable} -c "import sys; sys.exit({code})" {{}}'

    found = bisect(tmp_path, *pair, command)

    assert found.blocked == blocked
    assert found.verdict is Verdict.INCOMPARABLE


def test_a_run_that_hangs_is_undecided_and_ended(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    command = f'{sys.executable} -c "import time; time.sleep(600)" {{}}'

    found = bisect(tmp_path, *pair, command, timeout_s=0.5)

    assert found.blocked == "the good side is undecided"


def test_an_interrupted_search_goes_on(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    check, real, ran = checker(tmp_path, NAMES[1], pair[0]), run_module._run, []

    def interrupted(*arguments: Any) -> Outcome:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(run_module, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bisect(tmp_path, *pair, check)
    monkeypatch.setattr(run_module, "_run", real)

    found = bisect(tmp_path, *pair, check)

    assert found.guilty == ("model.layers.1.self_attn.k_proj.weight",)
    assert found.num_run == len(found.outcomes) - 2
    assert bisect(tmp_path, *pair, check).num_run == 0, "all of it is kept"


def test_outcomes_of_another_search_are_refused(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    bisect(tmp_path, *pair, checker(tmp_path, NAMES[0], pair[0]))

    with pytest.raises(UsageError, match="the outcomes of another search"):
        bisect(tmp_path, *pair, "true {}")


@pytest.mark.parametrize("content", ["", "{}", "[", '{"schema": "cotejar.bisect/1"}'])
def test_a_file_that_holds_no_outcomes_is_refused(
    tmp_path: Path, pair: tuple[Path, Path], content: str
) -> None:
    (tmp_path / "state.json").write_text(content)

    with pytest.raises(UsageError, match="the search cannot go on from this file"):
        bisect(tmp_path, *pair, "true {}")


def test_models_that_do_not_differ_leave_nothing_to_search(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    with pytest.raises(UsageError, match="there is nothing to search in"):
        bisect(tmp_path, pair[0], pair[0], "true {}")


def test_models_that_cannot_be_mixed_are_refused(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    wide = write_tiny_gguf(tmp_path / "wide.gguf", replace(TinyDecoder(), num_layers=1))

    with pytest.raises(UsageError, match="on one side alone"):
        bisect(tmp_path, pair[0], wide, "true {}")


@pytest.mark.parametrize("check", ["", "true", "'"])
def test_a_command_that_names_no_model_is_refused(
    tmp_path: Path, pair: tuple[Path, Path], check: str
) -> None:
    with pytest.raises(UsageError, match="the command cannot be run"):
        bisect(tmp_path, *pair, check)


def test_a_command_that_is_not_there_is_refused(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    with pytest.raises(UsageError, match="No such file"):
        bisect(tmp_path, *pair, "no-such-program {}")
    assert not (tmp_path / "state.json").exists()


# --- over options and commits -------------------------------------------------------------


def test_the_guilty_option_is_named(tmp_path: Path) -> None:
    script = "import os, sys; sys.exit(os.environ.get('B') == '2')"
    check = f"{sys.executable} -c {shlex.quote(script)}"

    found = bisect(tmp_path, "A=1 B=1 C=1 D=4", "A=2 B=2 C=2 D=4", check, over="options")

    assert found.differences == ("A: 1 -> 2", "B: 1 -> 2", "C: 1 -> 2")
    assert found.guilty == ("B: 1 -> 2",)


@pytest.mark.parametrize(("good", "bad"), [("A=1", "A=1"), ("A", "A=1"), ("1=2", "A=1")])
def test_options_that_mean_nothing_are_refused(tmp_path: Path, good: str, bad: str) -> None:
    with pytest.raises(UsageError):
        bisect(tmp_path, good, bad, "true", over="options")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_guilty_commit_is_named_and_no_tree_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "r"
    repository.mkdir()
    git(repository, "init", "-q")
    for number in range(7):
        (repository / "value").write_text("wrong" if number >= 4 else f"right {number}")
        (repository / "count").write_text(str(number))
        git(repository, "add", ".")
        git(repository, "commit", "-q", "-m", f"change {number}")
    monkeypatch.chdir(repository)

    found = bisect(tmp_path, "HEAD~6", "HEAD", "grep -q right value", over="commits")

    assert [name.split(" ", 1)[1] for name in found.guilty] == ["change 4"]
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_no_repository_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    with pytest.raises(UsageError, match="git does not do what is asked"):
        bisect(tmp_path, "a", "b", "true", over="commits")


def test_there_is_no_other_search(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no search over 'moon'"):
        bisect(tmp_path, "a", "b", "true {}", over="moon")


def test_the_command_line_says_what_was_found(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    program = "from cotejar.cli.apr.main import main; main()"
    command = [sys.executable, "-c", program, "bisect", "--over", "tensors", "--json"]
    command += ["--good", str(pair[0]), "--bad", str(pair[1])]
    command += ["--check", checker(tmp_path, NAMES[0], pair[0])]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["guilty"] == ["model.layers.0.mlp.up_proj.weight"]
    assert (tmp_path / "apr-bisect.json").is_file()
