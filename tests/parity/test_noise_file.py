"""A noise profile's file: what is written is read, and nothing else passes for one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cotejar.errors import CotejarError, MetadataError, NoiseProfileError, OutputExistsError
from cotejar.parity.noise import NOISE_METRICS, EngineNoise, MeasuredPrompt, Noise, NoiseProfile
from cotejar.parity.noise_file import MAX_BYTES, noise_json, read_noise, write_noise
from cotejar.trace.forward_trace import EngineInfo, ModelInfo, Scope

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

METRICS = {m: Noise(value=1.0 + i / 8, num_tokens=3) for i, m in enumerate(NOISE_METRICS)}
SITE = {m: n for m, n in METRICS.items() if m not in {"kl_max", "top1_flip_margin"}}
PROFILE = NoiseProfile(
    name="tiny.noise.json",
    model=ModelInfo(name="m.gguf", format="gguf", architecture="llama", fingerprint="sha256:1"),
    exact=EngineInfo(name="oracle", build="cotejar 0.1.0", numerics="f64"),
    engines=(
        EngineNoise(
            engine=EngineInfo(name="native", build="cotejar 0.1.0", numerics="q8"),
            sites={
                "layer.0.ffn_out": {Scope.ALL: SITE, Scope.LAST: SITE},
                "logits": {Scope.ALL: METRICS, Scope.LAST: METRICS},
            },
        ),
    ),
    prompts=(MeasuredPrompt(sha256="ab" * 32, num_tokens=3),),
    left_out=(("llamacpp+q8", "it crashed: SIGSEGV"),),
    host={"machine": "x86_64", "blas": ""},
    date="2026-11-26T15:00:00+00:00",
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tiny.noise.json"

    write_noise(path, PROFILE)

    assert read_noise(path) == PROFILE
    with pytest.raises(OutputExistsError):
        write_noise(path, PROFILE)


def test_a_file_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    whole = json.dumps(noise_json(PROFILE)).encode()

    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CotejarError):
            read_noise(path)


def cell(content: dict[str, Any], metric: str = "rel_l2_max") -> dict[str, Any]:
    found: dict[str, Any] = content["engines"][0]["sites"]["logits"]["all"][metric]
    return found


def sites(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["engines"][0]["sites"]
    return found


BAD: dict[str, tuple[Callable[[dict[str, Any]], object], str, str, str]] = {
    "schema": (
        lambda c: c.update(schema="cotejar.noise/2"),
        "schema",
        "cotejar.noise/1",
        "cotejar.noise/2",
    ),
    "no schema": (lambda c: c.pop("schema"), "schema", "cotejar.noise/1", "none"),
    "negative": (
        lambda c: cell(c).update(value=-1e-9),
        "logits all rel_l2_max",
        "a number in 0..1e+30",
        "-1e-09",
    ),
    "huge": (
        lambda c: cell(c).update(value=10**400),
        "logits all rel_l2_max",
        "a number in 0..1e+30",
        "1" + "0" * 119,
    ),
    "a spread below 1": (
        lambda c: cell(c, "std_ratio").update(value=0.999),
        "logits all std_ratio",
        "a number in 1..1e+30",
        "0.999",
    ),
    "a text": (
        lambda c: cell(c).update(value="0.1"),
        "logits all rel_l2_max",
        "a number in 0..1e+30",
        "0.1",
    ),
    "true": (
        lambda c: cell(c).update(value=True),
        "logits all rel_l2_max",
        "a number in 0..1e+30",
        "True",
    ),
    "of no token": (
        lambda c: cell(c).update(num_tokens=0),
        "logits all rel_l2_max num_tokens",
        "a whole number of at least 1",
        "0",
    ),
    "of too many tokens": (
        lambda c: cell(c).update(num_tokens=4),
        "logits all rel_l2_max num_tokens",
        "at most 3, those of all prompts",
        "4",
    ),
    "no prompt": (
        lambda c: c.update(prompts=[], num_tokens=0),
        "num_tokens",
        "a whole number of at least 1",
        "0",
    ),
    "another sum": (
        lambda c: c.update(num_tokens=5),
        "num_tokens",
        "the sum of those of all prompts",
        "5",
    ),
    "a digest": (
        lambda c: c["prompts"][0].update(sha256="AB" * 32),
        "prompts[].sha256",
        "64 hexadecimal digits",
        "AB" * 32,
    ),
    "no engine": (lambda c: c.update(engines=[]), "engines", "at least one, each once", "[]"),
    "an engine twice": (
        lambda c: c.update(engines=c["engines"] * 2),
        "engines",
        "at least one, each once",
        "['native+q8', 'native+q8']",
    ),
    "the oracle": (
        lambda c: c["engines"][0].update(name="oracle"),
        "engines[].name",
        "an engine that is held against the oracle",
        "oracle",
    ),
    "no sites": (
        lambda c: c["engines"][0].update(sites={}),
        "engines[].sites of native",
        "at least one site",
        "none",
    ),
    "a site": (
        lambda c: sites(c).update({"layer.0.ffn": {}}),
        "sites",
        "names of sites: layer.0.ffn_out, logits",
        "layer.0.ffn",
    ),
    "an alias": (
        lambda c: sites(c).update({"layer.0.ffn_silu": {}}),
        "sites",
        "names of sites: layer.0.ffn_out, logits",
        "layer.0.ffn_silu",
    ),
    "a scope": (
        lambda c: sites(c)["logits"].update(first={}),
        "logits",
        "the scopes all and last",
        "first",
    ),
    "a metric": (
        lambda c: sites(c)["logits"]["all"].update(nmse={}),
        "logits all",
        "metrics: rel_l2_max, rel_l2_median, std_ratio, kl_max, top1_flip_margin",
        "nmse",
    ),
    "a metric of logits elsewhere": (
        lambda c: sites(c)["layer.0.ffn_out"]["all"].update(kl_max=cell(c)),
        "layer.0.ffn_out all",
        "metrics: rel_l2_max, rel_l2_median, std_ratio, kl_max, top1_flip_margin",
        "kl_max",
    ),
    "a list": (lambda c: c.update(model=[]), "model", "an object", "list"),
    "nothing": (lambda c: c.pop("host"), "host", "an object", "nothing"),
    "a number": (
        lambda c: c["model"].update(fingerprint=7),
        "fingerprint",
        "text of 1 to 10000 characters",
        "7",
    ),
    "an empty fingerprint": (
        lambda c: c["model"].update(fingerprint=""),
        "fingerprint",
        "text of 1 to 10000 characters",
        "",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_and_named(tmp_path: Path, case: str) -> None:
    spoil, part, expected, found = BAD[case]
    content = json.loads(json.dumps(noise_json(PROFILE)))
    spoil(content)
    path = tmp_path / "p.json"
    path.write_text(json.dumps(content))

    with pytest.raises(NoiseProfileError) as caught:
        read_noise(path)

    assert str(caught.value) == (
        f"error[APR-R003]: the file is no noise profile: {part}\n"
        f"  where     {path}\n"
        f"  expected  {expected}\n"
        f"  found     {found}\n"
        "  try       measure it again: apr noise MODEL -o PROFILE"
    )


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_no_json(tmp_path: Path, number: str) -> None:
    path = tmp_path / "p.json"
    text = json.dumps(noise_json(PROFILE))
    path.write_text(text.replace('"value": 1.0', f'"value": {number}'))
    assert path.read_text() != text

    with pytest.raises(MetadataError):
        read_noise(path)


def test_a_number_that_overflows_is_refused(tmp_path: Path) -> None:
    """1e999 is JSON, and infinite once it is read."""
    path = tmp_path / "p.json"
    path.write_text(json.dumps(noise_json(PROFILE)).replace('"value": 1.0', '"value": 1e999'))

    with pytest.raises(NoiseProfileError) as caught:
        read_noise(path)

    assert caught.value.parts["found"] == "inf"


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    """Of two noises at one site nobody knows which was meant."""
    path = tmp_path / "p.json"
    path.write_text(json.dumps(noise_json(PROFILE)).replace('"logits"', '"layer.0.ffn_out"'))

    with pytest.raises(MetadataError):
        read_noise(path)


def test_a_file_of_any_length_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)

    with pytest.raises(NoiseProfileError) as caught:
        read_noise(path)

    assert caught.value.parts["found"] == f"{MAX_BYTES + 1}"


def test_a_profile_is_known_by_its_files_name(tmp_path: Path) -> None:
    write_noise(tmp_path / "other.json", replace(PROFILE, name=""))

    assert read_noise(tmp_path / "other.json").name == "other.json"
