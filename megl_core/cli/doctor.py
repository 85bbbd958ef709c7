"""`megl doctor`: versions, extras, devices and services; what is missing and how to get it."""

from dataclasses import asdict

import typer
from rich.table import Table

from megl_core.cli.common import JsonOption, console, print_json
from megl_core.cli.health import examine
from megl_core.operations.findings import MARKS, Finding, require

app = typer.Typer(help="Check versions, devices and services.")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what is installed, reachable and missing, and how to get it.

    MLFLOW_TRACKING_URI and KFP_ENDPOINT name the servers to try. No other verb reads KFP_ENDPOINT: where a
    pipeline runs is said by its --cluster alone.

    The exit code is 5 if something required is missing, or a service that was asked for does not answer.

    Example: megl doctor
    """
    findings = examine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _show(findings)
    require(findings)


def _show(findings: list[Finding]) -> None:
    for area in dict.fromkeys(finding.area for finding in findings):
        table = Table(title=area, title_justify="left", title_style="bold", box=None, show_header=False)
        table.add_column(width=1)
        table.add_column(min_width=18, no_wrap=True)
        table.add_column(overflow="fold")
        for finding in findings:
            if finding.area == area:
                mark, style = MARKS[finding.state]
                fix = f"\n-> {finding.fix}" if finding.fix else ""
                table.add_row(f"[{style}]{mark}[/]", finding.name, _escape(finding.detail + fix))
        console.print(table)
        console.print()


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
