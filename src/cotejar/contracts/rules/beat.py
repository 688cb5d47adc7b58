"""Rules on head-to-head benchmarks, `metadata.kind: beat-benchmark`: BEAT-001 to 007."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING

from cotejar.contracts.rules.rule import Rule, blank
from cotejar.contracts.schema import ContractKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.findings import Finding
    from cotejar.contracts.schema import Beat, Contract

INCUMBENTS = ("scikit-learn", "pytorch", "unsloth", "ollama", "llama.cpp")
DIRECTIONS = ("higher_is_better", "lower_is_better")
COMPUTE = ("CPU", "GPU")


class NoBeatBlock(Rule):
    """BEAT-001: a benchmark contract has no beat block.

    Why:
        The claim lives in the block; without it the contract gates nothing.
    Bad:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
    Good:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
        beat: {incumbent: ollama, metric: tokens_per_s, direction: higher_is_better,
               beat_threshold: 100, ci_gate_name: decode_speed, approved_compute: CPU}
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look for the block."""
        if contract.kind is ContractKind.BEAT_BENCHMARK and contract.beat is None:
            yield self.finding(contract, "a beat-benchmark needs a `beat` block", "beat")


class _BeatField(Rule):
    """One field of the block."""

    field = ""

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at the field, if the contract is a benchmark and has a block."""
        if contract.kind is ContractKind.BEAT_BENCHMARK and contract.beat is not None:
            problem = self.problem(contract.beat)
            if problem is not None:
                message = f"beat.{self.field} {problem}"
                yield self.finding(contract, message, "beat", self.field)

    @abstractmethod
    def problem(self, beat: Beat) -> str | None:
        """What is wrong, as the end of a sentence; None if nothing is."""


class UnknownIncumbent(_BeatField):
    """BEAT-002: the incumbent is none of those that may be claimed against.

    Why:
        A claim to beat something unnamed cannot be repeated by anyone.
    Bad:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
        beat: {incumbent: tensorflow, metric: tokens_per_s, direction: higher_is_better,
               beat_threshold: 100, ci_gate_name: decode_speed, approved_compute: CPU}
    Good:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
        beat: {incumbent: llama.cpp b9999, metric: tokens_per_s, direction: higher_is_better,
               beat_threshold: 100, ci_gate_name: decode_speed, approved_compute: CPU}
    """

    field = "incumbent"

    def problem(self, beat: Beat) -> str | None:
        """The name must contain one of the list, in any case."""
        if any(name in beat.incumbent.lower() for name in INCUMBENTS):
            return None
        return f"is {beat.incumbent!r}; it must name one of: {', '.join(INCUMBENTS)}"


class NoMetric(_BeatField):
    """BEAT-003: the benchmark names no metric.

    Why:
        A threshold without a quantity is a number.
    Bad:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
        beat: {incumbent: ollama, metric: " ", direction: higher_is_better,
               beat_threshold: 100, ci_gate_name: decode_speed, approved_compute: CPU}
    Good:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
        beat: {incumbent: ollama, metric: tokens_per_s, direction: higher_is_better,
               beat_threshold: 100, ci_gate_name: decode_speed, approved_compute: CPU}
    """

    field = "metric"

    def problem(self, beat: Beat) -> str | None:
        """Blanks count as nothing."""
        return "is empty; name the measured quantity" if blank(beat.metric) else None


class UnknownDirection(_BeatField):
    """BEAT-004: the direction is neither of the two.

    Why:
        Without it a regression and a gain look the same.
    Bad:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
        beat: {incumbent: ollama, metric: tokens_per_s, direction: bigger,
               beat_threshold: 100, ci_gate_name: decode_speed, approved_compute: CPU}
    Good:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
        beat: {incumbent: ollama, metric: tokens_per_s, direction: higher_is_better,
               beat_threshold: 100, ci_gate_name: decode_speed, approved_compute: CPU}
    """

    field = "direction"

    def problem(self, beat: Beat) -> str | None:
        """Blanks around the word do not matter."""
        if beat.direction.strip() in DIRECTIONS:
            return None
        return f"is {beat.direction!r}; it must be {' or '.join(DIRECTIONS)}"


class NoThreshold(_BeatField):
    """BEAT-005: there is no finite threshold.

    Why:
        A comparison with nothing, NaN or infinity never fails.
    Bad:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
        beat: {incumbent: ollama, metric: tokens_per_s, direction: higher_is_better,
               beat_threshold: .nan, ci_gate_name: decode_speed, approved_compute: CPU}
    Good:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
        beat: {incumbent: ollama, metric: tokens_per_s, direction: higher_is_better,
               beat_threshold: 1e2, ci_gate_name: decode_speed, approved_compute: CPU}
    """

    field = "beat_threshold"

    def problem(self, beat: Beat) -> str | None:
        """A number must be there, and be finite."""
        if beat.beat_threshold is None:
            return "is not there; it is the value that the gate fails at"
        if not math.isfinite(beat.beat_threshold):
            return f"is {beat.beat_threshold}; it must be finite"
        return None


class NoGateName(_BeatField):
    """BEAT-006: no gate is named that enforces the claim.

    Why:
        A claim that nothing enforces is prose.
    Bad:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
        beat: {incumbent: ollama, metric: tokens_per_s, direction: higher_is_better,
               beat_threshold: 100, approved_compute: CPU}
    Good:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
        beat: {incumbent: ollama, metric: tokens_per_s, direction: higher_is_better,
               beat_threshold: 100, ci_gate_name: decode_speed, approved_compute: CPU}
    """

    field = "ci_gate_name"

    def problem(self, beat: Beat) -> str | None:
        """Blanks count as nothing."""
        return "is empty; name the check that fails" if blank(beat.ci_gate_name) else None


class UnknownCompute(_BeatField):
    """BEAT-007: the approved compute is neither CPU nor GPU.

    Why:
        The same threshold means different things on the two.
    Bad:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
        beat: {incumbent: ollama, metric: tokens_per_s, direction: higher_is_better,
               beat_threshold: 100, ci_gate_name: decode_speed}
    Good:
        metadata:
          {version: 1.0.0, description: d, kind: beat-benchmark, references: [A source]}
        beat: {incumbent: ollama, metric: tokens_per_s, direction: higher_is_better,
               beat_threshold: 100, ci_gate_name: decode_speed, approved_compute: gpu}
    """

    field = "approved_compute"

    def problem(self, beat: Beat) -> str | None:
        """In any case, blanks around it do not matter."""
        if beat.approved_compute is None:
            return "is not there; it must be CPU or GPU"
        if beat.approved_compute.strip().upper() in COMPUTE:
            return None
        return f"is {beat.approved_compute!r}; it must be CPU or GPU"
