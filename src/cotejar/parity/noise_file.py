"""The noise profile's file: one JSON object, written whole or not at all.

    schema      "cotejar.noise/1"
    model       name, format, architecture, fingerprint
    exact       the oracle that every distance is from: name, build, numerics, device
    prompts[]   sha256 of the token ids, num_tokens
    num_tokens  of all prompts
    engines[]   name, build, numerics, device; sites.SITE.SCOPE.METRIC: value, num_tokens
    left_out[]  engine, reason
    host, date  where and when

A profile decides what passes, so that nothing in it is taken on trust: a number that is not
finite, a negative one, a count of 0, an unknown site, scope or metric refuse the file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NoReturn

from cotejar.errors import NoiseProfileError, UnknownSiteError
from cotejar.formats.atomic import atomic_write_json
from cotejar.formats.json_object import parse_json_object
from cotejar.formats.mapped_file import open_mapped
from cotejar.parity.noise import (
    EXACT,
    MAX_NOISE,
    NOISE_METRICS,
    EngineNoise,
    MeasuredPrompt,
    Noise,
    NoiseProfile,
    SiteNoise,
)
from cotejar.trace.forward_trace import EngineInfo, ModelInfo, Scope
from cotejar.trace.site import parse_site

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "cotejar.noise/1"
MAX_BYTES = 64 << 20
"""A model of 30 layers has 0.4 MB an engine."""
MAX_TEXT = 10_000
"""The build of an engine lists versions and CPU features: some hundreds of characters."""
_MAX_COUNT = 1 << 53
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCOPES = {scope.value: scope for scope in (Scope.ALL, Scope.LAST)}
_LOGITS_ONLY = {"kl_max", "top1_flip_margin"}
_HINT = "measure it again: apr noise MODEL -o PROFILE"


def noise_json(profile: NoiseProfile) -> dict[str, object]:
    """The object that the file holds, and that `--json` prints."""
    return {
        "schema": SCHEMA,
        "model": {
            "name": profile.model.name,
            "format": profile.model.format,
            "architecture": profile.model.architecture,
            "fingerprint": profile.model.fingerprint,
        },
        "exact": _engine_json(profile.exact),
        "prompts": [{"sha256": p.sha256, "num_tokens": p.num_tokens} for p in profile.prompts],
        "num_tokens": profile.num_tokens,
        "engines": [
            _engine_json(side.engine)
            | {"sites": {name: _site_json(site) for name, site in side.sites.items()}}
            for side in profile.engines
        ],
        "left_out": [{"engine": name, "reason": why} for name, why in profile.left_out],
        "host": dict(profile.host),
        "date": profile.date,
    }


def write_noise(path: Path, profile: NoiseProfile, *, overwrite: bool = False) -> None:
    """Write a profile, whole or not at all.

    Raises:
        FileError: the path cannot be written.
    """
    atomic_write_json(path, noise_json(profile), overwrite=overwrite)


def read_noise(path: Path) -> NoiseProfile:
    """Read a profile.

    Raises:
        FileError: the file cannot be read.
        MetadataError: it is no JSON object, or holds a key twice or a NaN.
        NoiseProfileError: it is none, of another schema, or a value in it cannot be.
    """
    with open_mapped(path) as mapped:
        if mapped.size_bytes > MAX_BYTES:
            _Reader(path).fail("size", f"at most {MAX_BYTES} bytes", f"{mapped.size_bytes}")
        data = mapped.bytes(0, mapped.size_bytes, "the JSON")
    return _Reader(path).profile(parse_json_object(data, where=str(path), unique=True))


def _engine_json(engine: EngineInfo) -> dict[str, object]:
    return {
        "name": engine.name,
        "build": engine.build,
        "numerics": engine.numerics,
        "device": engine.device,
    }


def _site_json(site: SiteNoise) -> dict[str, object]:
    return {
        scope.value: {
            metric: {"value": noise.value, "num_tokens": noise.num_tokens}
            for metric, noise in metrics.items()
        }
        for scope, metrics in site.items()
    }


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def fail(self, part: str, expected: str, found: object) -> NoReturn:
        raise NoiseProfileError(
            f"the file is no noise profile: {part}",
            where=str(self._path),
            expected=expected,
            found=f"{found!s:.120}",
            hint=_HINT,
        )

    def profile(self, content: dict[str, Any]) -> NoiseProfile:
        if content.get("schema") != SCHEMA:
            self.fail("schema", SCHEMA, content.get("schema", "none"))
        model = self._object(content, "model")
        prompts = tuple(self._prompt(p) for p in self._list(content, "prompts"))
        num_tokens = self._count(content, "num_tokens", "num_tokens")
        if num_tokens != sum(prompt.num_tokens for prompt in prompts):
            self.fail("num_tokens", "the sum of those of all prompts", num_tokens)
        engines = tuple(
            self._engine_noise(e, num_tokens) for e in self._list(content, "engines")
        )
        names = [side.name for side in engines]
        if not names or len(set(names)) != len(names):
            self.fail("engines", "at least one, each once", names)
        left_out = [self._checked(e, "left_out") for e in self._list(content, "left_out")]
        host = self._object(content, "host")
        return NoiseProfile(
            name=self._path.name,
            model=ModelInfo(
                name=self._text(model, "name"),
                format=self._text(model, "format"),
                architecture=self._text(model, "architecture"),
                fingerprint=self._text(model, "fingerprint"),
            ),
            exact=self._engine(self._object(content, "exact")),
            engines=engines,
            prompts=prompts,
            left_out=tuple(
                (self._text(e, "engine"), self._text(e, "reason")) for e in left_out
            ),
            host={key: self._text(host, key, may_be_empty=True) for key in host},
            date=self._text(content, "date"),
        )

    def _prompt(self, value: object) -> MeasuredPrompt:
        prompt = self._checked(value, "prompts[]")
        sha256 = self._text(prompt, "sha256")
        if not _SHA256.fullmatch(sha256):
            self.fail("prompts[].sha256", "64 hexadecimal digits", sha256)
        count = self._count(prompt, "num_tokens", "prompts[].num_tokens")
        return MeasuredPrompt(sha256=sha256, num_tokens=count)

    def _engine_noise(self, value: object, num_tokens: int) -> EngineNoise:
        content = self._checked(value, "engines[]")
        engine = self._engine(content)
        if engine.name == EXACT:
            self.fail("engines[].name", "an engine that is held against the oracle", EXACT)
        sites = {}
        for name in (written := self._object(content, "sites")):
            if not _is_site(name):
                self.fail("sites", "names of sites: layer.0.ffn_out, logits", name)
            sites[name] = self._site(name, self._object(written, name), num_tokens)
        if not sites:
            self.fail(f"engines[].sites of {engine.name}", "at least one site", "none")
        return EngineNoise(engine=engine, sites=sites)

    def _engine(self, content: dict[str, Any]) -> EngineInfo:
        keys = ("name", "build", "numerics", "device")
        return EngineInfo(**{key: self._text(content, key) for key in keys})

    def _site(self, name: str, content: dict[str, Any], num_tokens: int) -> SiteNoise:
        site: SiteNoise = {}
        for scope in content:
            if scope not in _SCOPES:
                self.fail(name, "the scopes all and last", scope)
            metrics = self._object(content, scope)
            for metric in metrics:
                fits = metric in NOISE_METRICS
                if not fits or (metric in _LOGITS_ONLY and name != "logits"):
                    self.fail(f"{name} {scope}", f"metrics: {', '.join(NOISE_METRICS)}", metric)
            site[_SCOPES[scope]] = {
                metric: self._noise(f"{name} {scope} {metric}", metric, value, num_tokens)
                for metric, value in metrics.items()
            }
        return site

    def _noise(self, part: str, metric: str, value: object, num_tokens: int) -> Noise:
        content = self._checked(value, part)
        least = 1.0 if metric == "std_ratio" else 0.0
        number = content.get("value")
        expected = f"a number in {least:g}..{MAX_NOISE:g}"
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            self.fail(part, expected, number)
        if not least <= number <= MAX_NOISE:  # nor is infinity, which 1e999 is read as
            self.fail(part, expected, number)
        count = self._count(content, "num_tokens", f"{part} num_tokens")
        if count > num_tokens:
            self.fail(
                f"{part} num_tokens", f"at most {num_tokens}, those of all prompts", count
            )
        return Noise(value=float(number), num_tokens=count)

    def _count(self, content: dict[str, Any], key: str, part: str) -> int:
        count = content.get(key)
        if type(count) is not int or not 1 <= count < _MAX_COUNT:
            self.fail(part, "a whole number of at least 1", count)
        return count

    def _text(self, content: dict[str, Any], key: str, *, may_be_empty: bool = False) -> str:
        text = content.get(key)
        if not isinstance(text, str) or len(text) > MAX_TEXT or not (text or may_be_empty):
            self.fail(key, f"text of 1 to {MAX_TEXT} characters", text)
        return text

    def _list(self, content: dict[str, Any], key: str) -> list[Any]:
        value = content.get(key)
        if not isinstance(value, list):
            self.fail(key, "a list", type(value).__name__)
        return value

    def _object(self, content: dict[str, Any], key: str) -> dict[str, Any]:
        return self._checked(content.get(key), key)

    def _checked(self, value: object, part: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.fail(part, "an object", "nothing" if value is None else type(value).__name__)
        return value


def _is_site(name: str) -> bool:
    """A name as it is written; aliases are not."""
    try:
        return str(parse_site(name)) == name
    except UnknownSiteError:
        return False
