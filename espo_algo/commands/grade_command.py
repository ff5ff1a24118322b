"""``espo grade``: grades a file of responses."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from espo_algo.atomic import write_text
from espo_algo.commands.terminal import messages, print_table

__all__ = ["grade"]


def grade(
    file: Annotated[Path, typer.Argument(help="JSON Lines (or JSON, Parquet) file of responses.")],
    response: Annotated[str, typer.Option(help="Field of the response.")] = "response",
    reference: Annotated[str, typer.Option(help="Field of the right answer.")] = "reference",
    question: Annotated[
        str | None, typer.Option(help="Field of the question, so that copying it does not pay.")
    ] = None,
    kind: Annotated[Literal["numeric", "symbolic"], typer.Option(help="How answers are compared.")] = "symbolic",
    workers: Annotated[int, typer.Option(min=1, help="Grading processes.")] = 2,
    output: Annotated[Path | None, typer.Option(help="JSON Lines file of the rows with their grades.")] = None,
) -> None:
    """Grades responses, and counts the verdicts by reason."""
    from espo_env.grading import GraderPool
    from espo_env.tasks.math_sources import read_rows

    with messages():
        rows = []
        for place, row in read_rows(file):
            if missing := [
                name for name in (response, reference, question) if name and not isinstance(row.get(name), str)
            ]:
                raise ValueError(f"{place}: expected a text as {missing[0]!r}, got fields {sorted(row)}")
            rows.append(row)
        if not rows:
            raise ValueError(f"{file}: expected responses, got none")
        with GraderPool(workers) as pool:
            futures = [
                pool.submit(row[response], row[reference], kind, row[question] if question else "") for row in rows
            ]
            grades = [future.result() for future in futures]
    if output is not None:
        lines = (
            json.dumps({**row, "grade": asdict(g)}, ensure_ascii=False) for row, g in zip(rows, grades, strict=True)
        )
        write_text(output, "".join(line + "\n" for line in lines))
    counts = Counter(g.reason for g in grades)
    print_table(
        ["reason", "responses", "share"], [[r, str(n), f"{n / len(grades):.1%}"] for r, n in counts.most_common()]
    )
    right = sum(g.correct for g in grades)
    typer.echo(f"right: {right} of {len(grades)} ({right / len(grades):.1%})")
