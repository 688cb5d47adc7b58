"""The `parity:` block: what it says, and every value that means nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cotejar.contracts.parity_block import read_parity_block
from cotejar.contracts.validate import validate_file
from cotejar.errors import ContractError, MissingFileError
from cotejar.formats.convert import import_model
from cotejar.parity import gates
from cotejar.parity.compare import Plan
from cotejar.parity.gates import Gate
from cotejar.parity.precondition_ids import PRECONDITION_IDS
from cotejar.parity.preconditions import CHECKS
from cotejar.parity.run import Request, run_parity
from cotejar.testing.tiny_decoder import TinyDecoder
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.trace import site
from cotejar.trace.forward_trace import Scope
from cotejar.trace.site import CONTRACT_SLOTS
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from cotejar.contracts.parity_block import ParityBlock

OWN = Path(__file__).parents[2] / "contracts/apr-vs-gguf-forward-parity-v1.yaml"

BLOCK = """\
metadata: {version: 1.0.0}
parity:
  reference: a.gguf
  candidate: native+f32:b.apr
  prompts: ["What is 2+2?", hello]
  scopes: [last]
  required_sites: [ffn_gate, ffn_swigl]
  preconditions: [token-ids, finite]
  gates:
    - {metric: rel_l2_max, sites: all, limit: 1.0e-5, origin: "measured"}
    - {metric: std_ratio, sites: ffn_swigl, band: [0.5, 2.0], origin: "upstream's"}
    - {metric: kl_max, limit: 0, origin: "exact"}
    - {metric: max_abs, sites: layer.3.ffn_silu, limit: 1, origin: "one site"}
"""


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], ParityBlock]:
    """Read a contract's text; its name is `c.yaml`."""

    def read_text(text: str) -> ParityBlock:
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return read_parity_block(path)

    return read_text


def test_every_word_of_a_block_is_read(read: Callable[[str], ParityBlock]) -> None:
    block = read(BLOCK)

    assert (block.reference, block.candidate) == ("a.gguf", "native+f32:b.apr")
    assert block.prompts == ("What is 2+2?", "hello")
    assert block.plan == Plan(
        gates=(
            Gate(metric="rel_l2_max", sites="all", limit=1e-5, origin="measured"),
            Gate(metric="std_ratio", sites="ffn_swiglu_inner", limit=2, origin="upstream's"),
            Gate(metric="kl_max", sites="all", limit=0, origin="exact"),
            Gate(metric="max_abs", sites="layer.3.ffn_silu_gate", limit=1, origin="one site"),
        ),
        scopes=(Scope.LAST,),
        required_slots=("ffn_gate", "ffn_swiglu_inner"),
        preconditions=("token-ids", "finite"),
    )


def test_what_is_left_out_has_a_meaning(read: Callable[[str], ParityBlock]) -> None:
    block = read("parity: {gates: [{metric: nmse, limit: 1, origin: x}]}")

    assert (block.reference, block.candidate, block.prompts) == (None, None, ())
    assert block.plan.scopes == (Scope.ALL, Scope.LAST)
    assert block.plan.required_slots == CONTRACT_SLOTS
    assert block.plan.preconditions == ()  # that is all of them


def test_our_own_block_names_every_precondition_and_every_slot() -> None:
    block = read_parity_block(OWN)

    assert block.plan.preconditions == tuple(CHECKS)
    assert block.plan.required_slots == CONTRACT_SLOTS
    assert block.plan.scopes == (Scope.ALL, Scope.LAST)
    assert {(g.metric, g.sites) for g in block.plan.gates} == {
        ("rel_l2_max", "all"),
        ("std_ratio", "ffn_swiglu_inner"),
    }


def test_our_own_contract_is_valid() -> None:
    assert validate_file(OWN).verdict is Verdict.PASS


def test_our_own_block_passes_on_a_pair_and_fails_on_another(tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf", TinyDecoder(num_layers=3))
    import_model(gguf, tmp_path / "tiny.apr")
    block = read_parity_block(OWN)
    pair = Request(
        reference=str(gguf),
        candidate=str(tmp_path / "tiny.apr"),
        prompts=block.prompts,
        plan=block.plan,
    )

    sound = run_parity(pair)
    assert (sound.verdict, sound.bit_identical) == (Verdict.PASS, True)
    faulty = Request(
        reference=pair.reference,
        candidate=pair.candidate,
        prompts=block.prompts,
        plan=block.plan,
        fault="gate-up-swapped@2",
    )
    assert run_parity(faulty).verdict is Verdict.FAIL


GATE = '{metric: rel_l2_max, sites: all, limit: 1.0e-5, origin: "measured"}'
METRICS = f"of: {', '.join(gates.METRICS)}"
SLOTS = ", ".join(site.SLOTS)

BAD_GATES = [
    (GATE.replace("rel_l2_max", "l2"), "metric", METRICS, "l2"),
    (GATE.replace("1.0e-5", ".nan"), "limit", "a finite number of at least 0", "nan"),
    (GATE.replace("1.0e-5", ".inf"), "limit", "a finite number of at least 0", "inf"),
    (GATE.replace("1.0e-5", "-1"), "limit", "a finite number of at least 0", "-1.0"),
    (GATE.replace("1.0e-5", "'1'"), "limit", "a number", "the text '1'"),
    (GATE.replace(', origin: "measured"', ""), "", "a key `origin`", "none"),
    (GATE.replace("measured", " "), "origin", "where the limit comes from", "nothing"),
    (
        GATE.replace(", limit: 1.0e-5", ""),
        "",
        "a limit or a band, one of them",
        "both or neither",
    ),
    (
        GATE.replace("limit: 1.0e-5", "limit: 1, band: [0.5, 2]"),
        "",
        "a limit or a band, one of them",
        "both or neither",
    ),
    (
        GATE.replace("limit: 1.0e-5", "band: [0.5, 2]"),
        "band",
        "a limit: rel_l2_max is no ratio",
        "a band",
    ),
    (
        GATE.replace("sites: all", "sites: ffn_gatee"),
        "sites",
        f"all, a site, or one of: {SLOTS}",
        "ffn_gatee",
    ),
    (
        GATE.replace("rel_l2_max, sites: all", "kl_max, sites: ffn_gate"),
        "sites",
        "logits, or all: kl_max is measured nowhere else",
        "ffn_gate",
    ),
    (
        GATE.replace("limit:", "limt:"),
        "",
        "keys of: metric, sites, limit, band, origin",
        "limt",
    ),
]
BAD_BANDS = [
    ("[0.5, 2.1]", "[0.5, 2.1]"),
    ("[2.0, 0.5]", "[2.0, 0.5]"),
    ("[-0.5, -2.0]", "[-0.5, -2.0]"),
    ("[0, .inf]", "[0.0, inf]"),
    ("[.nan, .nan]", "[nan, nan]"),
    ("['0.5', 2.0]", "[None, 2.0]"),
    ("[1.0]", "[1.0]"),
    ("2.0", "[]"),
]
BAND = "[1/x, x]: the same band whichever side is first"


def test_a_gate_that_is_right_is_read(read: Callable[[str], ParityBlock]) -> None:
    assert len(read(f"parity:\n  gates:\n    - {GATE}\n").plan.gates) == 1


@pytest.mark.parametrize(
    ("gate", "key", "expected", "found"),
    BAD_GATES
    + [
        (f"{{metric: std_ratio, band: {band}, origin: x}}", "band", BAND, found)
        for band, found in BAD_BANDS
    ],
)
def test_a_gate_that_means_nothing_is_refused(
    read: Callable[[str], ParityBlock],
    tmp_path: Path,
    gate: str,
    key: str,
    expected: str,
    found: str,
) -> None:
    with pytest.raises(ContractError) as caught:
        read(f"parity:\n  gates:\n    - {gate}\n")

    assert caught.value.problem.startswith(
        f"Failed to parse YAML: parity.gates[0]{'.' if key else ''}{key}: "
    )
    assert caught.value.parts["where"].startswith(f"{tmp_path / 'c.yaml'}:3:")
    assert (caught.value.parts["expected"], caught.value.parts["found"]) == (expected, found)


SIDE = "text: [ENGINE[+numerics][@device]:]PATH"

BAD_BLOCKS = [
    ("scopes: [all, first]", "parity.scopes[1]", "of: all, last", "first"),
    (
        "required_sites: [ffn_gate, logits]",
        "parity.required_sites[1]",
        f"of: {SLOTS}, ffn_swigl, ffn_silu",
        "logits",
    ),
    ("preconditions: [ddoff]", "parity.preconditions[0]", f"of: {', '.join(CHECKS)}", "ddoff"),
    (
        "scope: [all]",
        "parity",
        "keys of: reference, candidate, prompts, scopes, required_sites, preconditions, gates",
        "scope",
    ),
    ("scopes: all", "parity.scopes", "a list", "the text 'all'"),
    ("reference: [a, b]", "parity.reference", "text", "a list of 2"),
    ("reference: 5", "parity.reference", SIDE, "5"),
    ("candidate: ''", "parity.candidate", SIDE, "''"),
    ("prompts: [a, '']", "parity.prompts[1]", "a text of at least 1 character", "none"),
]


@pytest.mark.parametrize(("line", "place", "expected", "found"), BAD_BLOCKS)
def test_a_word_that_means_nothing_is_refused_where_it_stands(
    read: Callable[[str], ParityBlock],
    tmp_path: Path,
    line: str,
    place: str,
    expected: str,
    found: str,
) -> None:
    with pytest.raises(ContractError) as caught:
        read(f"parity:\n  gates:\n    - {GATE}\n  {line}\n")

    assert caught.value.problem == f"Failed to parse YAML: {place}: wrong type or value"
    assert caught.value.parts["where"].startswith(f"{tmp_path / 'c.yaml'}:4:")
    assert (caught.value.parts["expected"], caught.value.parts["found"]) == (expected, found)


@pytest.mark.parametrize("gates", ["gates: []", "gates:", "prompts: [x]"])
def test_a_block_without_a_gate_is_refused(
    read: Callable[[str], ParityBlock], tmp_path: Path, gates: str
) -> None:
    with pytest.raises(ContractError) as caught:
        read(f"parity:\n  {gates}\n")

    assert str(caught.value) == (
        "error[PV-E005]: Failed to parse YAML: parity.gates: wrong type or value\n"
        f"  where     {tmp_path / 'c.yaml'}:2:3\n"
        "  expected  at least one gate\n"
        "  found     none\n"
        "  try       the schema of a contract is in docs/spec.md section 5"
    )


@pytest.mark.parametrize("block", ["parity: yes", "parity: [1]"])
def test_a_block_that_is_no_mapping_is_refused(
    read: Callable[[str], ParityBlock], block: str
) -> None:
    with pytest.raises(ContractError) as caught:
        read(block)

    assert caught.value.parts["expected"] == "a mapping"


@pytest.mark.parametrize(
    ("text", "line", "count"),
    [
        ("metadata: {}\n", "", 0),
        ("[parity]\n", "", 0),
        (f"parity: {{gates: [{GATE}]}}\nx: 1\nparity: {{gates: [{GATE}]}}\n", ":3", 2),
    ],
)
def test_a_contract_has_one_block(
    read: Callable[[str], ParityBlock], tmp_path: Path, text: str, line: str, count: int
) -> None:
    with pytest.raises(ContractError) as caught:
        read(text)

    assert str(caught.value) == (
        "error[PV-E001]: the contract does not say what to compare\n"
        f"  where     {tmp_path / 'c.yaml'}{line}\n"
        "  expected  one top-level block `parity:`\n"
        f"  found     {count} of them\n"
        "  try       contracts/apr-vs-gguf-forward-parity-v1.yaml shows one"
    )


def test_a_gate_twice_the_same_key_is_refused(read: Callable[[str], ParityBlock]) -> None:
    with pytest.raises(ContractError, match="duplicate field `limit`"):
        read("parity: {gates: [{metric: nmse, limit: 1, limit: 2, origin: x}]}")


def test_a_contract_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_parity_block(tmp_path / "none.yaml")


def test_validation_lists_all_that_a_run_would_refuse(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "metadata: {version: 1.0.0, description: d, references: [r], kind: pattern}\n"
        "parity:\n"
        "  reference: 5\n"
        "  preconditions: [ddoff]\n"
        "  gates:\n"
        "    - {metric: rel_l2_max, limit: .inf, origin: x}\n"
        "    - {metric: rel_l2_max, limit: -1, origin: x}\n"
        "    - {metric: rel_l2_max, limit: 1, origin: x}\n"
        "    - {metric: kl_max, sites: ffn_gate, limit: 1, origin: x}\n"
    )

    report = validate_file(path)

    assert report.verdict is Verdict.FAIL
    findings = [f for f in report.findings if f.rule == "PARITY-001"]
    assert [(f.path, f.line) for f in findings] == [
        ("parity.reference", 3),
        ("parity.preconditions[0]", 4),
        ("parity.gates[0].limit", 6),
        ("parity.gates[1].limit", 7),
        ("parity.gates[3].sites", 9),
    ]
    assert findings[2].message == (
        "parity.gates[0].limit: wrong type or value: expected a finite number of at least 0, "
        "found inf"
    )


def test_a_contract_is_validated_without_numpy() -> None:
    code = (
        "import sys; from cotejar.contracts import validate\n"
        f"assert not validate.validate_file({str(OWN)!r}).num_errors\n"
        "print('numpy' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout == "False\n"


def test_every_precondition_that_a_contract_may_name_is_judged() -> None:
    assert tuple(CHECKS) == PRECONDITION_IDS
