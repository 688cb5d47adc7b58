"""`apr chat`: a conversation at the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from cotejar.cli.apr.sampling import read_sampling, sampling_flags

if TYPE_CHECKING:
    from cotejar.generation.chat_session import ChatSession, Reply

COMMANDS = """\
/clear    begin a new conversation
/history  show what was said
/quit     end (Ctrl-D does too)
Ctrl-C    end a reply"""


@click.command("chat", short_help="Talk with a model.")
@click.argument("model")
@click.option("--system", help="What the model is told before the conversation.")
@click.option("-n", "--max-tokens", default=512, show_default=True, help="Of each reply.")
@sampling_flags
def chat(model: str, system: str | None, max_tokens: int, **options: Any) -> None:
    """Talk with MODEL, [native[+numerics]:]PATH, through its own chat template.

    Replies stream; after each stands how fast it was. /help lists what can be typed. Lines
    from a pipe are answered in turn.

    \b
    apr chat demo:smollm2
    apr chat model.gguf --temperature 0.7 --top-p 0.9

    Exits 0 when done, 2 on bad input.
    """  # noqa: D301 - click wants the control character
    from cotejar.generation.chat_session import ChatSession
    from cotejar.generation.open_native import open_native

    if max_tokens < 1:
        raise click.UsageError("--max-tokens is at least 1")
    sampling = read_sampling(options)
    session = ChatSession(open_native(model), sampling, max_tokens=max_tokens, system=system)
    if sys.stdin.isatty():
        click.echo("/help lists what can be typed", err=True)
    while (line := _read_line()) is not None:
        if line.strip() and not _obey(session, line.strip()):
            return


def _read_line() -> str | None:
    if sys.stdin.isatty():
        try:
            return input("> ")
        except EOFError:
            return None
        except KeyboardInterrupt:
            click.echo("", err=True)  # of the line that was being typed
            return ""
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def _obey(session: ChatSession, line: str) -> bool:
    """Do what a line asks; False ends the conversation."""
    from cotejar.errors import CotejarError
    from cotejar.report.tables import encodable, visible_lines

    if line == "/quit":
        return False
    if line == "/help":
        click.echo(COMMANDS)
    elif line == "/clear":
        session.clear()
    elif line == "/history":
        for message in session.messages:
            text = f"{message['role']}: {message['content']}"
            click.echo(encodable(visible_lines(text)))
    elif line.startswith("/"):
        click.echo(f"there is no {line.split()[0]}\n{COMMANDS}", err=True)
    else:
        try:
            reply = session.ask(
                line, lambda text: click.echo(encodable(visible_lines(text)), nl=False)
            )
        except CotejarError as error:
            click.echo(str(error), err=True)
            return True
        click.echo()
        click.echo(_rate_line(reply), err=True)
    return True


def _rate_line(reply: Reply) -> str:
    ended = ", interrupted" if reply.interrupted else ""
    return (
        f"[{reply.num_tokens} tokens, {reply.tokens_per_s:.1f} tokens/s, first after "
        f"{1000 * reply.first_token_s:.0f} ms, {reply.num_reused} of {reply.num_prompt} "
        f"prompt tokens kept{ended}]"
    )
