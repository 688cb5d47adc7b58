"""The options of every verb that draws tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cotejar.generation.sampling_options import DEFAULT_SEED, STAGES, SamplingOptions

if TYPE_CHECKING:
    from collections.abc import Callable


def token_bias(text: str) -> tuple[int, float]:
    """Read `TOKEN=NUMBER`; click shows the function's name where it refuses."""
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no TOKEN=NUMBER, such as 198=-inf") from None


_OPTIONS = (
    click.option(
        "--temperature",
        default=0.0,
        show_default=True,
        help="0 is greedy; more is more random.",
    ),
    click.option("--seed", default=DEFAULT_SEED, show_default=True, help="Of the draws."),
    click.option("--top-k", default=0, help="Draw among the k likeliest.  [default: all]"),
    click.option("--top-p", default=1.0, help="Draw among the likeliest of this share."),
    click.option("--min-p", default=0.0, help="Least likelihood, relative to the likeliest."),
    click.option("--typical-p", default=1.0, help="Draw among the most typical of this share."),
    click.option("--repetition-penalty", default=1.0, help="Divides logits of seen tokens."),
    click.option("--presence-penalty", default=0.0, help="Taken off seen tokens, once."),
    click.option("--frequency-penalty", default=0.0, help="Taken off for each time seen."),
    click.option(
        "--penalty-window",
        default=64,
        show_default=True,
        help="Tokens that penalties look back over; -1 for all.",
    ),
    click.option(
        "--logit-bias",
        multiple=True,
        type=token_bias,
        metavar="TOKEN=NUMBER",
        help="Add to a token's logit; may repeat.",
    ),
    click.option(
        "--sampler-order",
        default=",".join(STAGES),
        show_default=True,
        help="In which order filters and temperature act.",
    ),
)


def sampling_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the sampling options; `read_sampling` makes one object of them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_sampling(values: dict[str, Any]) -> SamplingOptions:
    """The options that `sampling_flags` added, taken as a command's keyword arguments.

    Raises:
        UsageError: a value that means nothing.
    """
    order = tuple(part.strip() for part in values.pop("sampler_order").split(","))
    return SamplingOptions(order=order, **values)


def grammar_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--json-schema` and `--grammar`; `read_grammar_flags` reads them."""
    path = click.Path(path_type=Path)
    command = click.option(
        "--grammar",
        type=path,
        help="Generate by a .lark, .gbnf or .regex file (extra grammar).",
    )(command)
    return click.option(
        "--json-schema", type=path, help="Generate JSON by this schema (extra grammar)."
    )(command)


def read_grammar_flags(values: dict[str, Any]) -> tuple[str, str] | None:
    """Kind and text of the grammar that was asked for, taken out of the keyword arguments.

    Raises:
        click.UsageError: two are, or the file's name says no kind.
        MissingFileError, GrammarError: as reading finds.
    """
    schema, grammar = values.pop("json_schema"), values.pop("grammar")
    if schema is None and grammar is None:
        return None
    if schema is not None and grammar is not None:
        raise click.UsageError("give one of --json-schema and --grammar")
    kind = "json-schema" if grammar is None else grammar.suffix.removeprefix(".")
    if kind not in {"json-schema", "lark", "gbnf", "regex"}:
        raise click.UsageError("--grammar takes a .lark, .gbnf or .regex file")
    from cotejar.generation.grammar import read_grammar

    return kind, read_grammar(schema or grammar)
