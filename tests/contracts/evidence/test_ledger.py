"""The file of runs: appended whole, read strictly, tolerant of one cut line at the end."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from cotejar.contracts.evidence.ledger import MAX_LINE_BYTES, append_record, read_ledger
from cotejar.contracts.evidence.record import FalsificationRecord, ProofRecord, parse_record
from cotejar.errors import EvidenceError, NotAFileError, WriteError


def test_both_kinds_of_record_come_back_as_they_were(bench: Any) -> None:
    run, proof = bench.record(), bench.prove()

    ledger = read_ledger(bench.evidence, "example")

    assert (ledger.records, ledger.truncated) == ((run, proof), None)
    assert ledger.latest("F-1", FalsificationRecord) == run
    assert ledger.latest("KH-1", ProofRecord) == proof
    assert ledger.latest("KH-1", FalsificationRecord) is None


def test_the_latest_record_counts(bench: Any) -> None:
    bench.record(verdict="SURVIVED")
    second = bench.record(verdict="FALSIFIED")

    assert read_ledger(bench.evidence, "example").latest("F-1", FalsificationRecord) == second


def test_no_file_is_no_record(bench: Any) -> None:
    assert read_ledger(bench.evidence, "example").records == ()


def test_many_writers_lose_nothing(bench: Any) -> None:
    record = bench.record()

    def write() -> None:
        for _ in range(10):
            append_record(bench.evidence, record)

    writers = [threading.Thread(target=write) for _ in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert read_ledger(bench.evidence, "example").records == (record,) * 61


def test_a_cut_last_line_is_reported_and_the_rest_is_read(bench: Any) -> None:
    record = bench.record()
    file = bench.evidence / "example.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:40])

    ledger = read_ledger(bench.evidence, "example")

    assert ledger.records == (record,)
    assert ledger.truncated == f"{file}:2: the last line is cut short after 40 bytes"


@pytest.mark.parametrize("num_kept", [1, 40, -1])
def test_the_next_append_mends_a_cut_line(bench: Any, num_kept: int) -> None:
    record = bench.record()
    file = bench.evidence / "example.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:num_kept])

    append_record(bench.evidence, record)

    ledger = read_ledger(bench.evidence, "example")
    # A line that lacks nothing but its end is kept.
    assert len(ledger.records) == (3 if num_kept == -1 else 2)
    assert ledger.truncated is None


def test_a_broken_line_before_the_last_is_an_error(bench: Any) -> None:
    bench.record()
    file = bench.evidence / "example.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[1:] + whole)

    with pytest.raises(EvidenceError) as caught:
        read_ledger(bench.evidence, "example")

    assert str(caught.value) == (
        "error[PV-E010]: a file of evidence is malformed\n"
        f"  where     {file}:1\n"
        "  expected  one JSON object\n"
        "  found     Extra data: line 1 column 9 (char 8)\n"
        "  try       take the line out, or bring the file back from version control"
    )


@pytest.mark.parametrize(
    ("key", "value", "expected", "found"),
    [
        ("schema", 2, "schema 1", "schema 2"),
        ("kind", "rumour", "kind: falsification or proof", "'rumour'"),
        ("verdict", "PASSED", "verdict: one of SURVIVED, FALSIFIED, STOPPED", "'PASSED'"),
        ("verdict", "NOT-RUN", "verdict: one of SURVIVED, FALSIFIED, STOPPED", "'NOT-RUN'"),
        ("exit_code", "0", "exit_code: int or NoneType", "str"),
        ("output_bytes", True, "output_bytes: int", "bool"),
        ("models", {"m": 1}, "models: name -> hash", "other values in it"),
        ("output_tail", [1], "output_tail: a list of str", "other items in it"),
        ("code_hash", None, "code_hash: str", "NoneType"),
    ],
)
def test_a_record_with_a_wrong_value_is_an_error(
    bench: Any, key: str, value: Any, expected: str, found: str
) -> None:
    facts = {**bench.record().as_json(), key: value}

    with pytest.raises(EvidenceError) as caught:
        parse_record(facts, "file:7")

    assert caught.value.problem == "a record of evidence is malformed"
    parts = caught.value.parts
    assert (parts["where"], parts["expected"], parts["found"]) == ("file:7", expected, found)


def test_every_key_of_a_record_must_be_there(bench: Any) -> None:
    for facts in (bench.record().as_json(), bench.prove().as_json()):
        for key in facts:
            with pytest.raises(EvidenceError):
                parse_record({k: v for k, v in facts.items() if k != key}, "file:1")


def test_a_proof_that_found_no_harness_is_no_record(bench: Any) -> None:
    with pytest.raises(EvidenceError) as caught:
        parse_record({**bench.prove().as_json(), "verdict": "NOT FOUND"}, "file:1")

    assert caught.value.parts["expected"] == "verdict: one of PROVED, REFUTED, UNKNOWN"


def test_a_line_beyond_the_limit_is_an_error(bench: Any) -> None:
    bench.evidence.mkdir()
    file = bench.evidence / "example.jsonl"
    file.write_bytes(b'{"x": "' + b"1" * MAX_LINE_BYTES + b'"}\n')

    with pytest.raises(EvidenceError) as caught:
        read_ledger(bench.evidence, "example")

    assert caught.value.parts["where"] == f"{file}:1"
    assert caught.value.parts["found"] == f"{MAX_LINE_BYTES + 10} bytes"


def test_a_record_that_could_not_be_read_again_is_not_written(bench: Any) -> None:
    first = bench.record()

    with pytest.raises(EvidenceError) as caught:
        bench.record(reason="x" * MAX_LINE_BYTES)

    assert caught.value.parts["expected"] == f"at most {MAX_LINE_BYTES} bytes"
    assert read_ledger(bench.evidence, "example").records == (first,)


def test_a_folder_in_its_place_is_refused(bench: Any) -> None:
    record = bench.record()
    (bench.evidence / "example.jsonl").unlink()
    (bench.evidence / "example.jsonl").mkdir()

    with pytest.raises(NotAFileError):
        read_ledger(bench.evidence, "example")
    with pytest.raises(WriteError):
        append_record(bench.evidence, record)


def test_evidence_that_cannot_be_written_is_one_error(bench: Any) -> None:
    record = bench.record()
    blocked = bench.root / "blocked"
    blocked.write_text("a file")

    with pytest.raises(WriteError) as caught:
        append_record(blocked, record)

    assert str(caught.value) == (
        "error[APR-F005]: the evidence could not be recorded; the file is as it was\n"
        f"  where     {blocked}/example.jsonl\n"
        "  expected  a folder that this user may write to, with room in it\n"
        "  found     File exists\n"
        "  try       name another folder with --evidence, or run with --no-record"
    )


def test_a_record_is_one_line_of_json(bench: Any) -> None:
    bench.record(output_tail=("a\nb", "\u2028"))

    lines = (bench.evidence / "example.jsonl").read_bytes().split(b"\n")

    assert lines[1:] == [b""]
    assert json.loads(lines[0])["output_tail"] == ["a\nb", "\u2028"]
