"""`apr`: run, trace and compare language models."""

from __future__ import annotations

import click

from cotejar.cli.lazy_group import LazyGroup, VerbTable

APR_VERBS: VerbTable = {
    "run": ("cotejar.cli.apr.run:run", "Answer one prompt."),
    "chat": ("cotejar.cli.apr.chat:chat", "Talk with a model."),
    "serve": ("cotejar.cli.apr.serve:serve", "Answer over HTTP, as OpenAI's API does."),
    "trace": ("cotejar.cli.apr.trace:trace", "Record what every layer computes."),
    "parity": ("cotejar.cli.apr.parity:parity", "Compare two models or engines, and judge."),
    "noise": ("cotejar.cli.apr.noise:noise", "Measure how far honest arithmetics lie apart."),
    "diagnose": (
        "cotejar.cli.apr.diagnose:diagnose",
        "Name the operation, the side and the cause.",
    ),
    "probe": ("cotejar.cli.apr.probe:probe", "Which faults can a prompt show on a model?"),
    "faults": ("cotejar.cli.apr.faults:faults", "List the faults that can be injected."),
    "bisect": ("cotejar.cli.apr.bisect:bisect", "Find the difference that makes it bad."),
    "check": ("cotejar.cli.apr.check:check", "Does an engine agree with itself?"),
    "tokens": ("cotejar.cli.apr.tokens:tokens", "Compare two tokenizers over a corpus."),
    "eval": ("cotejar.cli.apr.eval:eval_", "Perplexity of a text; KL from another model."),
    "bench": ("cotejar.cli.apr.bench:bench", "Measure prefill, decode, tracing, memory."),
    "inspect": ("cotejar.cli.apr.inspect:inspect", "Show what a model or trace file is."),
    "tensors": ("cotejar.cli.apr.tensors:tensors", "List a model's tensors."),
    "diff": ("cotejar.cli.apr.diff:diff", "Show what differs between two files."),
    "import": ("cotejar.cli.apr.import_:import_", "Write a model as an .apr."),
    "export": ("cotejar.cli.apr.export:export", "Write an .apr as a GGUF."),
    "doctor": ("cotejar.cli.apr.doctor:doctor", "Show versions, CPU and kernels in use."),
}
"""Every verb of `apr`, in the order of its help."""


@click.group(cls=LazyGroup, verbs=APR_VERBS)
@click.version_option(package_name="cotejar", prog_name="apr")
def apr() -> None:
    """Run, trace and compare language models."""
