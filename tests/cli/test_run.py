"""`apr run` from the outside: its text, its JSON, and every way it can end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cotejar.engines.native.engine import NativeSession
from cotejar.model.language_model import open_language_model
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_metadata import CHAT_TEMPLATE
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.tokenizer.tokenizer import StreamDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from .conftest import Done

    Run = Callable[..., Done]

FULL = Path("/dev/full")


def command(*args: object) -> list[str]:
    program = "import sys; from cotejar.cli.apr.main import main; main()"
    return [sys.executable, "-c", program, "run", *map(str, args)]


def test_the_text_has_upstreams_form(run_apr: Run, tiny_gguf: Path) -> None:
    answer = json.loads(run_apr("run", tiny_gguf, "hello", "-n", 5, "--json").out)["text"]

    done = run_apr("run", tiny_gguf, "hello", "--max-tokens", 5)

    assert (done.code, done.err) == (0, "")
    head, _, rest = done.out.partition("Output:\n")
    assert head == f"=== APR Run ===\nSource: {tiny_gguf}\n\n"
    assert rest.startswith(answer)
    end = rest.removeprefix(answer)
    assert re.fullmatch(r"\n\nCompleted in \d+\.\d\ds \(cached\)\n", end)


def test_the_demo_model_answers_on_the_line_after_output(
    run_apr: Run, demo_model: Path
) -> None:
    """Upstream's check reads the first line after `Output:` that is not blank."""
    done = run_apr("run", demo_model, "--prompt", "Hi", "-n", 1)

    lines = done.out.splitlines()
    after = lines[lines.index("Output:") + 1 :]
    assert next(line for line in after if line.strip()) == "Hello"


def test_the_json_has_upstreams_keys(run_apr: Run, tiny_gguf: Path) -> None:
    done = run_apr("run", tiny_gguf, "hello", "-n", 4, "--json")

    facts = json.loads(done.out)
    model = open_language_model(tiny_gguf)
    assert (done.code, done.err) == (0, "")
    assert facts["model"] == str(tiny_gguf)
    assert facts["tokens_generated"] == len(facts["tokens"]) <= facts["max_tokens"] == 4
    assert facts["text"] == model.tokenizer.decode(facts["tokens"])
    assert (facts["used_gpu"], facts["cached"]) == (False, True)
    assert facts["inference_time_ms"] > 0
    per_second = 1000 * facts["tokens_generated"] / facts["inference_time_ms"]
    assert facts["tok_per_sec"] == pytest.approx(per_second)
    assert (facts["engine"], facts["numerics"]) == ("native", "q8")


def test_the_template_is_applied_unless_raw(run_apr: Run, tiny_gguf: Path) -> None:
    tokenizer = open_language_model(tiny_gguf).tokenizer

    chat, raw = (
        json.loads(run_apr("run", tiny_gguf, "hello", "-n", 1, "--json", *flags).out)
        for flags in ([], ["--raw"])
    )

    assert (chat["chat_template"], raw["chat_template"]) == (True, False)
    assert raw["prompt_tokens"] == tokenizer.encode("hello")
    assert tokenizer.decode(chat["prompt_tokens"]).startswith("<|im_start|>user\nhello")


def test_every_token_is_on_the_screen_before_the_next_is_computed(
    run_apr: Run, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    append = NativeSession.append

    def watch(session: NativeSession, token_ids: Sequence[int]) -> np.ndarray:
        shown.append(sys.stdout.getvalue())
        return append(session, token_ids)

    monkeypatch.setattr(NativeSession, "append", watch)
    done = run_apr("run", tiny_gguf, "hello", "-n", 6, "--raw")

    assert shown[0] == ""  # nothing before the prompt has been read
    texts = [text.partition("Output:\n")[2] for text in shown]
    answer = done.out.partition("Output:\n")[2]
    assert all(answer.startswith(text) for text in texts)
    assert len(set(texts)) >= 3  # a piece of a letter waits for the rest of it


def test_the_same_seed_says_the_same(run_apr: Run, tiny_gguf: Path) -> None:
    def say(seed: int) -> list[int]:
        hot = ["--temperature", 9, "--seed", seed, "-n", 12, "--raw", "--json"]
        return json.loads(run_apr("run", tiny_gguf, "hello", *hot).out)["tokens"]

    assert say(1) == say(1)
    assert say(1) != say(2)


def test_a_prompt_is_given_once(run_apr: Run, tiny_gguf: Path) -> None:
    twice = run_apr("run", tiny_gguf, "hello", "--prompt", "hello")
    never = run_apr("run", tiny_gguf)

    assert (twice.code, never.code) == (2, 2)
    assert twice.err.endswith("Error: give the prompt once: as PROMPT or with --prompt\n")
    assert never.err.endswith("Error: give a prompt: as PROMPT or with --prompt\n")


def test_no_gpu_and_cpu_are_understood(run_apr: Run, tiny_gguf: Path) -> None:
    for flag in ("--no-gpu", "--cpu", "--skip-contract"):
        assert run_apr("run", tiny_gguf, "hello", "-n", 1, flag).code == 0


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["none.gguf", "hello"], "error[APR-F002]"),
        (["/", "hello"], "error[APR-F003]"),
        ([__file__, "hello"], "error[APR-F011]"),
        (["MODEL", ""], "error[APR-U002]: the prompt is empty"),
        (["MODEL", "hello", "-n", "0"], "error[APR-U001]: there is nothing to generate"),
        (["MODEL", "hello", "--seed", "-1"], "error[APR-U001]: the seed cannot be used"),
        (
            ["MODEL", "hello", "--temperature", "nan"],
            "error[APR-U001]: the temperature cannot be used",
        ),
        (
            ["MODEL", "hello " * 60],
            "error[APR-U004]: the prompt and the answer do not fit into the model's",
        ),
        (["oracle:MODEL", "hello"], "error[APR-U005]: oracle cannot continue a text"),
        (["nativ:MODEL", "hello"], "error[APR-U005]: there is no engine 'nativ'"),
    ],
)
def test_bad_input_is_one_error_and_no_output(
    run_apr: Run, tiny_gguf: Path, args: list[str], problem: str
) -> None:
    args = [arg.replace("MODEL", str(tiny_gguf)) for arg in args]

    done, as_json = run_apr("run", *args), run_apr("run", *args, "--json")

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(problem)
    assert [line.split()[0] for line in done.err.splitlines()[1:]] == [
        "where",
        "expected",
        "found",
        "try",
    ]
    facts = json.loads(as_json.out)
    assert (as_json.code, facts["exit_code"]) == (2, 2)
    assert f"error[{facts['error']['code']}]: {facts['error']['problem']}" in done.err


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ raise_exception('no') }}", "refuses the messages"),
        ("{{ messages.x.y }}", "fails"),
        ("{% for a in messages * 999 %}{% for b in range(9999) %}{% endfor %}{% endfor %}", ""),
    ],
)
def test_a_template_that_raises_or_loops_is_one_error(
    run_apr: Run, tiny_gguf: Path, tmp_path: Path, template: str, found: str
) -> None:
    bad = tmp_path / "bad.gguf"
    written = CHAT_TEMPLATE.encode()
    bad.write_bytes(
        tiny_gguf.read_bytes().replace(written, template.encode().ljust(len(written)))
    )

    done, raw = run_apr("run", bad, "hello"), run_apr("run", bad, "hello", "--raw", "-n", 1)

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error[APR-T004]: the chat template {found}")
    assert "try       give the prompt as it is: `--raw`" in done.err
    assert raw.code == 0


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_full_disk_is_an_error(tiny_gguf: Path, flags: list[str]) -> None:
    with FULL.open("wb") as full:
        done = subprocess.run(
            command(tiny_gguf, "hello", "-n", 2, *flags),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 2
    assert done.stderr == (
        "error[APR-F005]: the output could not be written whole\n"
        "  where     standard output\n"
        "  expected  room to write\n"
        "  found     No space left on device\n"
        "  try       free some space, or write the output to another disk\n"
    )


def test_ctrl_c_ends_it_with_130(tmp_path: Path) -> None:
    """The answer is far longer than anyone waits for."""
    decoder = TinyDecoder(context_length=1 << 20)
    path = write_tiny_gguf(tmp_path / "long.gguf", decoder)
    flags = ["-n", 1 << 19, "--temperature", 100]  # so hot that an end token is a rare one

    with subprocess.Popen(
        command(path, "hello", *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        while running.stdout.readline() not in {b"Output:\n", b""}:
            pass
        running.send_signal(signal.SIGINT)
        running.stdout.read()
        err = running.stderr.read()

    assert (running.returncode, err) == (130, b"interrupted\n")


def test_a_screen_without_the_letters_shows_escapes(tmp_path: Path, tiny_gguf: Path) -> None:
    accented = tmp_path / "modèle.gguf"
    accented.symlink_to(tiny_gguf)

    done = subprocess.run(
        command(accented, "hello", "-n", 1),
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"mod\\xe8le.gguf" in done.stdout


def test_a_name_that_is_no_utf_8_still_makes_json(tmp_path: Path, tiny_gguf: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff.gguf"
    os.symlink(os.fsencode(tiny_gguf), odd)  # noqa: PTH211 - a name in bytes

    done = subprocess.run(
        [*command(), odd, "hello", "-n", "1", "--json"], capture_output=True, check=True
    )

    assert json.loads(done.stdout)["model"] == f"{tmp_path}/\\udcff.gguf"


def test_help_shows_its_examples_line_by_line(run_apr: Run) -> None:
    done = run_apr("run", "--help")

    assert '  apr run demo:smollm2 "What is the capital of France?"\n' in done.out
    assert '  apr run native+f32:model.apr --prompt "def fib(n):" --raw\n' in done.out


def test_neither_the_name_nor_the_answer_sends_an_escape(
    run_apr: Run, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a\x1b[31m\nOutput: forged.gguf"
    path.write_bytes(tiny_gguf.read_bytes())
    monkeypatch.setattr(StreamDecoder, "push", lambda *_: "x\x1b[2J\x9b\ty\n")

    done = run_apr("run", path, "hello", "-n", 1)

    assert "\x1b" not in done.out
    assert "\x9b" not in done.out
    assert r"a\x1b[31m\nOutput: forged.gguf" in done.out
    assert "Output:\nx\\x1b[2J\\x9b\ty\n" in done.out
