"""Rules on competitive-research fields, of any kind of contract: CRUX-001 and 002."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotejar.contracts.rules.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cotejar.contracts.findings import Finding
    from cotejar.contracts.schema import Contract

DEMAND_SCORES = range(1, 6)
COMPETITORS = (
    "apr-qa-playbook",
    "autogluon",
    "burn",
    "ecosystem",
    "hf-kernels-community",
    "huggingface",
    "linfa",
    "llama_cpp",
    "mlflow",
    "none",
    "ollama",
    "openclaw",
    "openclip",
    "pulp-free-chat",
    "pytorch",
    "qwen",
    "unsloth",
    "vllm",
)
"""The closed list upstream judges by; another name is no known source."""


class DemandScore(Rule):
    """CRUX-001: a demand score is missing or outside 1..5.

    Why:
        Work is ranked by the score; one value out of range outranks everything. In
        `metadata` it may be absent, in a row of `stories` it may not.
    Bad:
        metadata:
          {version: 1.0.0, description: d, references: [A source], demand_score: 6}
    Good:
        metadata:
          {version: 1.0.0, description: d, references: [A source], demand_score: 5}
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at `metadata` and at every story."""
        score = contract.metadata.demand_score
        if score is not None and score not in DEMAND_SCORES:
            message = f"metadata.demand_score is {score}; it must be 1 to 5"
            yield self.finding(contract, message, "metadata", "demand_score")
        for index, story in enumerate(contract.stories):
            if story.demand_score is not None and story.demand_score in DEMAND_SCORES:
                continue
            found = "missing" if story.demand_score is None else str(story.demand_score)
            message = f"the demand_score of story {story.id!r} is {found}; it must be 1 to 5"
            yield self.finding(contract, message, "stories", index, "demand_score")


class UnknownCompetitor(Rule):
    """CRUX-002: a competitor is missing or is no known source.

    Why:
        A story must be traceable to whose behaviour it was taken from. In `metadata` the
        name may be absent, in a row of `stories` it may not.
    Bad:
        stories:
          - {id: CRUX-A-01, competitor: somebody, demand_score: 3}
    Good:
        stories:
          - {id: CRUX-A-01, competitor: vllm, demand_score: 3}
    """

    def check(self, contract: Contract) -> Iterator[Finding]:
        """Look at `metadata` and at every story."""
        known = "one of: " + ", ".join(COMPETITORS)
        name = contract.metadata.competitor
        if name is not None and name not in COMPETITORS:
            message = f"metadata.competitor is {name!r}; it must be {known}"
            yield self.finding(contract, message, "metadata", "competitor")
        for index, story in enumerate(contract.stories):
            if story.competitor in COMPETITORS:
                continue
            found = "missing" if story.competitor is None else repr(story.competitor)
            message = f"the competitor of story {story.id!r} is {found}; it must be {known}"
            yield self.finding(contract, message, "stories", index, "competitor")
