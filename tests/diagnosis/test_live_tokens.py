"""Two sides that cut one text into other tokens: what is different about them is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cotejar.diagnosis.diagnose import diagnose
from cotejar.diagnosis.request import Request
from cotejar.formats.gguf.value import GgufValue, ValueType
from cotejar.parity.side import Side
from cotejar.testing import tiny_models
from cotejar.testing.tiny_models import write_tiny_gguf
from cotejar.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("adds_bos", "id_", "side"),
    [(("reference",), "bos-missing", "candidate"), (("candidate",), "bos-extra", "candidate")],
)
def test_a_file_that_adds_a_bos_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    adds_bos: tuple[str, ...],
    id_: str,
    side: str,
) -> None:
    metadata = tiny_models.gguf_metadata

    def with_bos(*arguments):
        yes = GgufValue.encode(ValueType.BOOL, value=True)
        return {**metadata(*arguments), "tokenizer.ggml.add_bos_token": yes}

    paths = {}
    for name in ("reference", "candidate"):
        with monkeypatch.context() as patch:
            if name in adds_bos:
                patch.setattr(tiny_models, "gguf_metadata", with_bos)
            paths[name] = write_tiny_gguf(tmp_path / f"{name}.gguf")

    found = diagnose(
        Request(
            reference=f"oracle:{paths['reference']}",
            candidate=f"native+f32:{paths['candidate']}",
            prompt="hello there",
        )
    )

    assert found.verdict is Verdict.INCOMPARABLE
    assert (found.site, found.wrong_side) == ("tokens", side)
    assert [cause.id for cause in found.causes] == [id_]


def test_two_vocabularies_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number of tokens, and one of them another."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(
        Side, "tokenize", lambda side, _: [5, 77 + (side.name.engine == "native"), 300]
    )

    found = diagnose(
        Request(reference=f"oracle:{path}", candidate=f"native+f32:{path}", prompt="hello")
    )

    assert found.verdict is Verdict.INCOMPARABLE
    assert [(cause.id, cause.title) for cause in found.causes] == [
        (
            "tokenizer",
            "the two tokenizers differ (vocabulary or merges): 1 of 3 tokens are others, the "
            "first token 1: 78, not 77",
        )
    ]
