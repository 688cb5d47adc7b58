"""`apr doctor`: what this installation is made of, and which kernels it uses."""

from __future__ import annotations

import click


@click.command("doctor", short_help="Show versions, CPU features and the kernels in use.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(*, as_json: bool) -> None:
    """Show versions, CPU features, the instruction set and the threads of the kernels.

    COTEJAR_ISA forces an instruction set, COTEJAR_THREADS the number of threads; neither
    changes a bit of a result. Exits 0, or 2 if one of them asks for what there is not.
    """
    from cotejar.report.doctor import doctor_facts, doctor_lines
    from cotejar.report.json_output import print_json

    facts = doctor_facts()
    if as_json:
        print_json(facts)
    else:
        click.echo("\n".join(doctor_lines(facts)))
