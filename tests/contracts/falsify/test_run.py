"""Each way for a command to misbehave is planted, stopped, and recorded as what it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from cotejar.contracts.evidence.ledger import read_ledger
from cotejar.contracts.falsify import supervise
from cotejar.contracts.falsify.landlock import landlock_abi
from cotejar.errors import UnknownTestError, UsageError

needs_landlock = pytest.mark.skipif(landlock_abi() == 0, reason="this kernel has no Landlock")
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")


@pytest.fixture
def token() -> str:
    """A text by which a test knows its own processes."""
    return f"token-{uuid.uuid4().hex}"


def test_a_command_that_exits_0_survived_and_is_recorded(bench: Any) -> None:
    result = bench.python("print('fine')").run_one()

    assert (result.verdict, result.reason) == ("SURVIVED", "")
    (record,) = read_ledger(bench.evidence, "example").records
    assert record == result.record
    assert (record.exit_code, record.output_bytes, record.output_tail) == (0, 5, ("fine",))
    assert record.command == "python -c \"print('fine')\""
    # printf 'fine\n' | sha256sum
    assert record.output_sha256.startswith("8ecc5f94c57b05d6")


def test_a_command_that_exits_with_another_code_is_falsified(bench: Any) -> None:
    result = bench.python("print('no'); raise SystemExit(3)").run_one()

    assert (result.verdict, result.reason) == ("FALSIFIED", "exit 3")
    assert result.record.output_tail == ("no",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "it names no command"),
        ("  ", "it names no command"),
        (
            "Check that y = x for every x",
            "prose: it starts with 'Check', no program that the project allows "
            "(pytest, python, apr, pv, cotejar)",
        ),
        ("it doesn't matter", "prose: as a command it has an error: No closing quotation"),
        (
            "sh -c true",
            "sh is not among the programs that the project allows "
            "(pytest, python, apr, pv, cotejar)",
        ),
        (
            "/bin/true",
            "/bin/true is not among the programs that the project allows "
            "(pytest, python, apr, pv, cotejar)",
        ),
        ("python " + "x" * 65_536, "its text is longer than 65536 characters"),
        ("X=1 python -c pass", "it sets a variable first; it must start with a program"),
        ("python -c pass | cat", "it needs a shell for `|`; --shell allows one"),
        ('python -c "$HOME"', "it needs a shell for `$`; --shell allows one"),
    ],
)
def test_what_is_no_command_never_runs_and_never_passes(
    bench: Any, text: str | None, reason: str
) -> None:
    result = bench.test(text).run_one()

    assert (result.verdict, result.reason, result.record) == ("NOT-RUN", reason, None)
    assert not bench.evidence.exists()


def test_a_program_that_the_settings_allow_but_nobody_installed_does_not_run(
    bench: Any,
) -> None:
    bench.settings('allow = ["no-such-program-x"]')

    result = bench.test("no-such-program-x --all").run_one()

    assert (result.verdict, result.reason) == (
        "NOT-RUN",
        "the program no-such-program-x is not installed",
    )


def test_a_hanging_command_is_stopped_and_gone(
    bench: Any, token: str, assert_all_ended: Any
) -> None:
    bench.test(f"python -c 'import time; time.sleep(60)' {token}", timeout_s=0.4)

    result = bench.run_one()

    assert (result.verdict, result.reason) == ("STOPPED", "it ran longer than 0.4 s")
    assert_all_ended(token)


@needs_proc
def test_a_fork_bomb_is_stopped_and_all_of_it_is_gone(
    bench: Any, token: str, assert_all_ended: Any
) -> None:
    # 2**7 processes, each in a session of its own, if nothing stops them.
    code = "import os,time; [os.fork() for _ in range(7)]; os.setsid(); time.sleep(60)"
    bench.settings("processes = 12\ntimeout_s = 20")
    bench.test(f"python -c '{code}' {token}")

    result = bench.run_one()

    assert result.verdict == "STOPPED"
    assert result.reason.startswith("it had ")
    assert result.reason.endswith(" processes at once, more than 12")
    assert_all_ended(token)


def test_a_flood_of_output_is_stopped_and_cut(bench: Any) -> None:
    bench.settings("output_mib = 1\ntimeout_s = 20")

    result = bench.python("while True: print('x' * 999)").run_one()

    assert (result.verdict, result.reason) == (
        "STOPPED",
        "it wrote more than 1 MiB of output",
    )
    assert 2**20 < result.record.output_bytes <= 2**20 + 2**16
    assert max(map(len, result.record.output_tail)) <= 403


@needs_proc
def test_a_command_that_takes_too_much_memory_is_stopped(bench: Any) -> None:
    bench.settings("memory_mib = 60\ntimeout_s = 20")

    result = bench.python("import time; x = b'1' * 90_000_000; time.sleep(20)").run_one()

    assert result.verdict == "STOPPED"
    assert result.reason.endswith(" MiB of memory, more than 60")


def test_a_file_beyond_the_limit_is_stopped(bench: Any) -> None:
    bench.settings("file_mib = 1")
    code = "import tempfile; tempfile.TemporaryFile().write(b'1' * 2_000_000)"

    result = bench.python(code).run_one()

    assert (result.verdict, result.reason) == ("STOPPED", "it wrote a file that is too large")


@needs_landlock
def test_a_write_outside_its_folder_is_prevented_and_recorded(bench: Any) -> None:
    bench.python("open('outside.txt', 'w')", "F-INSIDE-PROJECT")
    bench.python(f"open('{bench.root.parent}/elsewhere.txt', 'w')", "F-ELSEWHERE")

    inside, elsewhere = bench.run()

    assert (inside.verdict, inside.reason) == (
        "STOPPED",
        "it tried to write outside its folder: outside.txt",
    )
    assert (elsewhere.verdict, elsewhere.reason) == (
        "STOPPED",
        f"it tried to write outside its folder: {bench.root.parent}/elsewhere.txt",
    )
    assert inside.record.confinement == f"landlock-{landlock_abi()}"
    assert not (bench.root / "outside.txt").exists()
    assert not (bench.root.parent / "elsewhere.txt").exists()


@needs_landlock
def test_a_command_cannot_remove_or_forge_evidence(bench: Any) -> None:
    bench.record("F-1")
    before = (bench.evidence / "example.jsonl").read_bytes()
    code = (
        "import contextlib, os\n"
        "with contextlib.suppress(OSError): os.remove('evidence/example.jsonl')\n"
        "with contextlib.suppress(OSError): open('evidence/example.jsonl', 'a').write('{}')\n"
        "with contextlib.suppress(OSError): os.rename('evidence', 'gone')\n"
    )

    bench.python(code).run_one(record=False)

    assert (bench.evidence / "example.jsonl").read_bytes() == before


def test_without_landlock_a_write_outside_its_folder_is_noticed(bench: Any) -> None:
    result = bench.python("open('outside.txt', 'w')").run_one(landlock=False)

    assert (result.verdict, result.reason, result.record.confinement) == (
        "STOPPED",
        "it wrote outside its folder: outside.txt",
        "snapshot",
    )


@pytest.mark.parametrize("landlock", [True, False])
def test_its_scratch_and_declared_folders_are_its_own_to_write(
    bench: Any, landlock: bool
) -> None:
    bench.settings('writable = ["out"]')
    (bench.root / "out").mkdir()
    code = (
        "import os, tempfile\n"
        "open('out/result', 'w').write('1')\n"
        "print(tempfile.mkdtemp())\n"
        "open(os.devnull, 'w').write('1')\n"
    )

    result = bench.python(code).run_one(landlock=landlock)

    assert (result.verdict, result.reason) == ("SURVIVED", "")
    assert (bench.root / "out" / "result").read_text() == "1"
    assert not Path(result.record.output_tail[0]).exists()


def test_a_command_that_is_killed_did_not_survive(bench: Any) -> None:
    result = bench.python("import os; os.kill(os.getpid(), 9)").run_one()

    assert (result.verdict, result.reason) == ("STOPPED", "it was ended by SIGKILL")
    assert (result.record.exit_code, result.record.signal) == (None, "SIGKILL")


def test_a_command_that_kills_its_supervisor_did_not_survive(
    bench: Any, token: str, assert_all_ended: Any
) -> None:
    code = "import os, time; os.kill(os.getppid(), 9); time.sleep(60)"
    bench.test(f"python -c '{code}' {token}")

    result = bench.run_one(landlock=False)

    assert (result.verdict, result.reason) == (
        "STOPPED",
        "its supervisor was lost (status -9: no message)",
    )
    assert_all_ended(token)


def test_a_command_that_suspends_its_supervisor_is_ended_all_the_same(
    bench: Any, token: str, assert_all_ended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "_LATE_S", 0.5)
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGSTOP); time.sleep(60)"
    bench.test(f"python -c '{code}' {token}", timeout_s=0.5)

    result = bench.run_one(landlock=False)

    assert (result.verdict, result.reason) == (
        "STOPPED",
        "its supervisor was lost (status -9: no message)",
    )
    assert_all_ended(token)


@pytest.mark.skipif(landlock_abi() < 6, reason="this kernel's Landlock holds back no signals")
def test_a_confined_command_cannot_signal_others(bench: Any) -> None:
    result = bench.python("import os; os.kill(os.getppid(), 9)").run_one()

    assert (result.verdict, result.reason) == ("FALSIFIED", "exit 1")
    assert result.record.output_tail[-1].startswith("PermissionError: [Errno 1]")


@needs_proc
def test_what_a_command_leaves_running_is_ended_and_named(
    bench: Any, token: str, assert_all_ended: Any
) -> None:
    code = "import os,time; os.fork() or (os.setsid(), time.sleep(60))"
    bench.test(f"python -c '{code}' {token}")

    result = bench.run_one()

    assert (result.verdict, result.reason) == (
        "SURVIVED",
        "it left 1 processes running, which were ended",
    )
    assert_all_ended(token)


def test_a_script_without_its_interpreter_could_not_be_started(bench: Any) -> None:
    bench.settings('allow = ["./tool"]')
    script = bench.root / "tool"
    script.write_text("#!/nowhere/interpreter\n")
    script.chmod(0o755)

    result = bench.test("./tool").run_one()

    assert result.verdict == "STOPPED"
    assert result.reason.startswith("it could not be started: [Errno 2]")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_command_ends_when_whoever_asked_for_it_does(
    bench: Any, token: str, assert_all_ended: Any, number: signal.Signals, tmp_path: Path
) -> None:
    """And nothing temporary is left of it."""
    bench.test(f"python -c 'import time; time.sleep(60)' {token}")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    program = (
        "from cotejar.contracts.corpus import read_corpus\n"
        "from cotejar.contracts.falsify.run import Options, falsify_corpus\n"
        f"falsify_corpus(read_corpus({str(bench.file)!r}), Options())\n"
    )
    command = [sys.executable, "-c", program]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as asking:
        deadline = time.monotonic() + 60
        while not _is_running(token):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(asking.pid, number)

    assert_all_ended(token)
    assert not bench.evidence.exists()
    while any(temporary.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_running(token: str) -> bool:
    for entry in list(os.scandir("/proc")):
        if entry.name.isdigit():
            try:
                words = Path(entry.path, "cmdline").read_bytes()
            except OSError:
                continue
            if words.startswith(sys.executable.encode()) and words.endswith(
                token.encode() + b"\0"
            ):
                return True
    return False


def test_a_pytest_run_is_judged_by_what_it_tried(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # starts in half the time
    (bench.root / "test_x.py").write_text(
        "import pytest\n"
        "def test_good(tmp_path): (tmp_path / 'f').write_text('1')\n"
        "def test_bad(): assert 1 == 2\n"
        "@pytest.mark.skip(reason='no model here')\n"
        "def test_skipped(): pass\n"
    )
    bench.test("pytest -q test_x.py::test_good test_x.py::test_skipped", "F-GOOD")
    bench.test("pytest -q test_x.py::test_bad", "F-BAD")
    bench.test("python -m pytest -q test_x.py::test_skipped", "F-SKIPPED")
    bench.test("pytest -q test_x.py::test_renamed", "F-RENAMED")

    found = [(r.id, r.verdict.value, r.reason) for r in bench.run()]

    assert found == [
        ("F-GOOD", "SURVIVED", "1 of 2 tests ran, the rest were skipped"),
        ("F-BAD", "FALSIFIED", "exit 1"),
        ("F-SKIPPED", "NOT-RUN", "every test was skipped: no model here"),
        ("F-RENAMED", "STOPPED", "exit 4: bad usage, or no such test"),
    ]
    assert sorted(p.name for p in bench.root.iterdir()) == [
        "contracts",
        "evidence",
        "pyproject.toml",
        "src",
        "test_x.py",
    ]


def test_bad_usage_of_our_own_commands_is_no_falsification(bench: Any) -> None:
    result = bench.test("pv validate no-such-file.yaml").run_one()

    assert (result.verdict, result.reason) == ("STOPPED", "exit 2: bad usage or bad input")


def test_an_absent_fixture_blocks_a_test(bench: Any) -> None:
    bench.python("pass", fixtures=["models/absent.gguf"])

    result = bench.run_one()

    assert (result.verdict, result.reason) == (
        "NOT-RUN",
        "a fixture is absent: models/absent.gguf",
    )
    assert result.blocked_by == ("models/absent.gguf",)


def test_a_record_names_the_models_of_fixtures_command_and_parity_block(bench: Any) -> None:
    for name in ("a.gguf", "b.apr", "c.apr", "made.apr"):
        (bench.root / name).write_text(name)
    (bench.root / "out").mkdir()
    (bench.root / "out" / "made.apr").write_text("made")
    bench.settings('writable = ["out"]')
    bench.blocks["parity"] = {"reference": "oracle:c.apr", "candidate": "out/made.apr"}
    bench.test("python -c pass native+f32:b.apr", fixtures=["a.gguf"])

    record = bench.run_one().record

    assert sorted(record.stamp.models) == ["a.gguf", "b.apr", "c.apr"]


def test_no_record_leaves_no_evidence(bench: Any) -> None:
    result = bench.python("pass").run_one(record=False)

    assert result.verdict == "SURVIVED"
    assert not bench.evidence.exists()


def test_a_shell_runs_only_what_asks_for_one_and_starts_as_allowed(bench: Any) -> None:
    bench.test("python -c 'print(1)' | grep -q 1", "F-PIPE")
    bench.test("python -c 'print(1)' | grep -q 2", "F-EMPTY-PIPE")
    bench.test("Check a | b; all is well", "F-PROSE")

    found = [(r.id, r.verdict.value) for r in bench.run(shell=True)]

    assert found == [
        ("F-PIPE", "SURVIVED"),
        ("F-EMPTY-PIPE", "FALSIFIED"),
        ("F-PROSE", "NOT-RUN"),
    ]


def test_ci_refuses_a_shell(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    with pytest.raises(UsageError) as caught:
        bench.python("pass").run(shell=True)

    assert str(caught.value) == (
        "error[APR-U001]: a shell is not allowed under CI\n"
        "  where     --shell\n"
        "  expected  commands that need no shell\n"
        "  found     the variable CI=true\n"
        "  try       write the pipeline as a script or a test, and name that in the contract"
    )


def test_a_contract_that_falsifies_itself_is_refused_inside(bench: Any) -> None:
    bench.test(f"pv falsify {bench.file}")

    result = bench.run_one()

    assert (result.verdict, result.reason) == ("STOPPED", "exit 2: bad usage or bad input")
    assert any(
        "a falsification test cannot run falsification tests" in line
        for line in result.record.output_tail
    )


def test_an_unknown_id_runs_nothing(bench: Any) -> None:
    bench.python("open('ran', 'w')")

    with pytest.raises(UnknownTestError) as caught:
        bench.run(ids=("F-1", "F-2"))

    assert str(caught.value) == (
        "error[PV-E009]: no contract has a test 'F-2'\n"
        f"  where     {bench.file}\n"
        "  expected  one of 1 ids: F-1\n"
        "  found     F-2\n"
        "  try       `pv status` and `pv audit` list what a contract holds"
    )
    assert not bench.evidence.exists()


def test_only_the_named_tests_run(bench: Any) -> None:
    bench.python("pass", "F-1").python("pass", "F-2")

    assert [r.id for r in bench.run(ids=("F-2",))] == ["F-2"]


def test_output_that_would_steer_a_terminal_is_made_plain(bench: Any) -> None:
    code = r"import sys; sys.stdout.write('\x1b[31mred\x1b[0m\x07\n')"

    result = bench.python(code).run_one()

    assert result.record.output_tail == ("red\ufffd",)


def test_without_landlock_forged_evidence_is_noticed(bench: Any) -> None:
    bench.record("F-1")
    code = "open('evidence/example.jsonl', 'a').write('{}')"

    result = bench.python(code).run_one(landlock=False, record=False)

    assert (result.verdict, result.reason) == (
        "STOPPED",
        "it wrote outside its folder: evidence/example.jsonl",
    )
