"""Rules on publish manifests: PM-SHAPE-000 to 005.

What a manifest must hold is declared by the contract `publish-manifest-v1.yaml` beside it
or up to two folders above, in `schema.required_fields` and
`schema.provenance_required_fields`. Nothing here fetches or hashes what the manifest names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotejar.contracts.rules.rule import AnyRule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.findings import Finding
    from cotejar.contracts.source import Source

SCHEMA_FILE = "publish-manifest-v1.yaml"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Manifest:
    """A publish manifest as plain data, with the fields it must have."""

    source: Source
    values: dict[Any, Any]
    required: tuple[str, ...] | None
    """None if no file declares them."""
    provenance_required: tuple[str, ...]


class ManifestRule(AnyRule[Manifest]):
    """A rule over a publish manifest."""


class NoManifestSchema(ManifestRule):
    """PM-SHAPE-000: nothing declares which fields a manifest must have.

    Why:
        Without the list nothing about the manifest can be checked, and that is no pass.
    Bad:
        (no publish-manifest-v1.yaml near the manifest, or one without required_fields)
    Good:
        schema:
          required_fields: [model_id, sha256]
    """

    def check(self, subject: Manifest) -> Iterator[Finding]:
        """Look for the declared list."""
        if subject.required is None:
            message = (
                f"no {SCHEMA_FILE} beside the manifest or up to two folders above declares "
                "schema.required_fields, so nothing in it can be checked"
            )
            yield self.at(subject.source, message)


class MissingField(ManifestRule):
    """PM-SHAPE-001: a required field is missing, null or empty.

    Why:
        A manifest with a hole in it cannot be acted on; blanks count as nothing.
    Bad:
        model_id: ""
    Good:
        model_id: org/model
    """

    def check(self, subject: Manifest) -> Iterator[Finding]:
        """Look at every field that the schema requires."""
        for name in subject.required or ():
            if _is_empty(subject.values.get(name)):
                message = f"the required field `{name}` is missing or empty"
                yield self.at(subject.source, message, name)


class MissingProvenance(ManifestRule):
    """PM-SHAPE-002: a required field of the provenance is missing, null or empty.

    Why:
        Where the weights came from is the part that nobody can reconstruct later.
    Bad:
        provenance: {license: ""}
    Good:
        provenance: {license: apache-2.0}
    """

    def check(self, subject: Manifest) -> Iterator[Finding]:
        """Look at every provenance field that the schema requires."""
        provenance = subject.values.get("provenance")
        if subject.required is None or not isinstance(provenance, dict):
            return
        for name in subject.provenance_required:
            if _is_empty(provenance.get(name)):
                message = f"the required field `provenance.{name}` is missing or empty"
                yield self.at(subject.source, message, "provenance", name)


class BadDigest(ManifestRule):
    """PM-SHAPE-003: sha256 is not 64 lowercase hexadecimal digits.

    Why:
        It is compared as text with a computed digest; any other spelling never matches.
    Bad:
        sha256: ABC
    Good:
        sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    """

    def check(self, subject: Manifest) -> Iterator[Finding]:
        """Look at `sha256`, if it is there."""
        digest = subject.values.get("sha256")
        if subject.required is None or digest is None:
            return
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            message = f"sha256 is {digest!r}; it must be 64 lowercase hexadecimal digits"
            yield self.at(subject.source, message, "sha256")


class BadSize(ManifestRule):
    """PM-SHAPE-004: size_bytes is no positive integer.

    Why:
        It is what a download is compared with; zero or text hides a truncated one.
    Bad:
        size_bytes: 0
    Good:
        size_bytes: 491000000
    """

    def check(self, subject: Manifest) -> Iterator[Finding]:
        """Look at `size_bytes`, if the key is there."""
        if subject.required is None or "size_bytes" not in subject.values:
            return
        size = subject.values["size_bytes"]
        if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
            message = f"size_bytes is {size!r}; it must be a positive integer"
            yield self.at(subject.source, message, "size_bytes")


class BadUrl(ManifestRule):
    """PM-SHAPE-005: artifact_url is no https URL.

    Why:
        Plain http can be rewritten on the way.
    Bad:
        artifact_url: http://example.org/model.gguf
    Good:
        artifact_url: https://example.org/model.gguf
    """

    def check(self, subject: Manifest) -> Iterator[Finding]:
        """Look at `artifact_url`, if it is there."""
        url = subject.values.get("artifact_url")
        if subject.required is None or url is None:
            return
        if (
            not isinstance(url, str)
            or not url.removeprefix("https://")
            or (not url.startswith("https://"))
        ):
            message = f"artifact_url is {url!r}; it must start with https://"
            yield self.at(subject.source, message, "artifact_url")


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


MANIFEST_RULES: tuple[ManifestRule, ...] = (
    NoManifestSchema(),
    MissingField(),
    MissingProvenance(),
    BadDigest(),
    BadSize(),
    BadUrl(),
)
"""In the order of the output."""
