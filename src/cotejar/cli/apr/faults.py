"""`apr faults`: the known ways to be wrong."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("faults", short_help="List the faults that can be injected; write one.")
@click.option("--family", metavar="NAME", help="One family: rope, norm, attention, ...")
@click.option("--model", metavar="GGUF", help="Write a copy of it with --fault in its bytes.")
@click.option("--fault", metavar="ID[@LAYER]", help="What is wrong in the copy.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write it.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it is there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def faults(
    family: str | None,
    model: str | None,
    fault: str | None,
    output: Path | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """List every fault: what is wrong, where it is first seen, what it needs to show.

    `apr parity --fault ID[@LAYER][*STRENGTH]` injects one into the candidate, and
    `apr probe` says which of them a prompt can show on a model. A fault of bytes can also
    be written into a file, for engines that open files by themselves.

    \b
    apr faults
    apr faults --family rope --json
    apr faults --model m.gguf --fault block-shift -o bad.gguf

    Exits 0, or 2 on bad input.
    """  # noqa: D301 - click wants the control character
    if any((model, fault, output)):
        if not (model and fault and output) or family:
            raise click.UsageError("to write a faulty file: --model GGUF --fault ID -o OUTPUT")
        _write(model, fault, output, force=force, as_json=as_json)
    else:
        _list(family, as_json=as_json)


def _list(family: str | None, *, as_json: bool) -> None:
    from cotejar.faults.catalogue import FAULTS
    from cotejar.report.faults import fault_list_lines
    from cotejar.report.json_output import print_json
    from cotejar.report.tables import print_lines

    families = dict.fromkeys(one.family for one in FAULTS.values())
    if family is not None and family not in families:
        raise click.UsageError(
            f"there is no family {family!r}; these are: {', '.join(families)}"
        )
    chosen = [one for one in FAULTS.values() if family in {None, one.family}]
    if as_json:
        print_json({"faults": [one.as_json() for one in chosen]})
    else:
        print_lines(fault_list_lines(chosen))


def _write(model: str, fault: str, output: Path, *, force: bool, as_json: bool) -> None:
    from cotejar.faults.faulty_file import write_faulty_gguf
    from cotejar.formats.open_model import resolve_model_path
    from cotejar.report.faults import written_fault_lines
    from cotejar.report.json_output import print_json
    from cotejar.report.tables import print_lines

    source = resolve_model_path(model)
    names = write_faulty_gguf(source, output, fault, overwrite=force)
    if as_json:
        print_json({"output": output, "fault": fault, "changed_tensors": list(names)})
    else:
        print_lines(written_fault_lines(output, fault, names))
