"""The command `instsel`: parses, calls, and turns errors into exit statuses."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from instsel.config.file import load_study
from instsel.config.study import StudyConfig
from instsel.console import Terminal, printable
from instsel.errors import InputError, StudyError
from instsel.pipeline.registry import stage_names
from instsel.pipeline.runner import run_study

STAGES = stage_names()

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

StudyPath = Annotated[str, typer.Argument(help="study file, YAML: a path or URI", metavar="STUDY.yaml")]
StudyFolder = Annotated[str, typer.Argument(help="folder of a study: its `out`", metavar="STUDY_DIR")]
Overrides = Annotated[
    list[str], typer.Option("--set", help="override a key: selection.budget=0.05", metavar="KEY=VALUE")
]
Until = Annotated[str, typer.Option(help=f"last stage to run: {', '.join(STAGES)}", metavar="STAGE")]


@app.callback()
def main() -> None:
    """Choose the instruction examples that are worth training on, and train on them."""


@app.command()
def run(study: StudyPath, overrides: Overrides = [], until: Until = STAGES[-1]) -> None:  # noqa: B006
    """Run a study; goes on where it stopped."""
    with exit_status():
        _check_stage(until)
        run_and_tell(load_study(study, overrides), until)


@app.command()
def plan(
    study: StudyPath,
    overrides: Overrides = [],  # noqa: B006
    cluster: Annotated[
        str | None, typer.Option(help="plan for a cluster that is not here: 8xH100, 2x8xH100, 4xcpu", metavar="CLUSTER")
    ] = None,
    rates: Annotated[str | None, typer.Option(help="file of rates measured on such a device", metavar="FILE")] = None,
    price: Annotated[
        float | None, typer.Option(help="of one GPU (of cpu: one machine) an hour; tells the cost")
    ] = None,
    save_rates: Annotated[str | None, typer.Option(help="keep what is measured here in a file", metavar="FILE")] = None,
) -> None:
    """Tell what a study will take, before it starts: rows, tokens, hours, memory and disk of every stage."""
    with exit_status():
        from instsel.planner.cluster import TargetCluster
        from instsel.planner.run import plan_study

        target = TargetCluster.from_options(cluster, rates, price, save_rates)
        plan_study(load_study(study, overrides), Terminal(), target=target)


@app.command()
def select(
    study: StudyFolder,
    method: Annotated[str, typer.Option(help="name of a method: bids, less, g2is, smart, ...")],
    budget: Annotated[str, typer.Option(help="0.1 is a share of the pool, 500 a count")],
    unit: Annotated[str, typer.Option(help="what the budget counts: rows or tokens")] = "rows",
    targets: Annotated[str | None, typer.Option(help="targets to choose for, by default all", metavar="A,B")] = None,
    options: Annotated[
        list[str], typer.Option("--set", help="option of the method: delta=0.9", metavar="KEY=VALUE")
    ] = [],  # noqa: B006
    attribution: Annotated[str | None, typer.Option(help="cosine or fisher, by default as the study")] = None,
    name: Annotated[str | None, typer.Option(help="name of the selection")] = None,
) -> None:
    """Make a new selection from a finished study's stored gradients and embeddings, without a GPU."""
    with exit_status():
        from instsel.choice.reselect import SelectionRequest, reselect
        from instsel.report.explanation import selection_summary

        terminal = Terminal()
        chosen = targets.split(",") if targets else None
        wish = SelectionRequest(method, budget, unit, chosen, options, attribution, name)
        folder, made = reselect(study, wish, terminal.say)
        terminal.verdict(selection_summary(made, str(folder)))


@app.command()
def explain(study: StudyFolder, row: Annotated[str, typer.Argument(help="id of a pool row", metavar="ROW_ID")]) -> None:
    """Tell why a row was, or was not, chosen: its rank under each method, whom it helps and whom it hurts."""
    with exit_status():
        from instsel.choice.explain import explain as gather
        from instsel.report.explanation import explanation

        Terminal().verdict(explanation(gather(study, row)))


@app.command()
def report(
    studies: Annotated[list[str], typer.Argument(help="folders of studies: their `out`", metavar="STUDY_DIR...")],
    out: Annotated[
        str | None,
        typer.Option(help="file to write; default report/report.html in the folder, ./report.html for several"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the verdict as JSON, for machines")] = False,
) -> None:
    """Build report.html again from what is stored, of one study or of several side by side, and show the verdict."""
    with exit_status():
        from instsel.report.verdict import tell_verdicts
        from instsel.report.write import write_report

        found, page = write_report(studies, out)
        tell_verdicts(found, page, Terminal(), as_json)


@app.command()
def search(study: StudyPath, overrides: Overrides = []) -> None:  # noqa: B006
    """Try methods, budgets, mixtures, orders and settings; ends with the best study file. Goes on where it stopped."""
    with exit_status():
        search_and_tell(load_study(study, overrides))


@app.command()
def submit(
    study: StudyPath,
    address: Annotated[
        str | None, typer.Option(help="of the cluster's job server, http://HOST:8265; default RAY_API_SERVER_ADDRESS")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    until: Until = STAGES[-1],
    search: Annotated[bool, typer.Option("--search", help="search, as `instsel search` does")] = False,
    pip: Annotated[
        Path | None, typer.Option(help="requirements that the cluster installs first; default: its image has instsel")
    ] = None,
    follow: Annotated[bool, typer.Option(help="follow the log; Ctrl-C leaves it, and the job goes on")] = True,
) -> None:
    """Run a study as a job of a Ray cluster, or come back to it. A job submitted again goes on where it stopped."""
    with exit_status():
        from instsel.runtime.jobs import Order
        from instsel.runtime.jobs import submit as send

        _check_stage(until)
        order = Order(study, overrides, "search" if search else "run", None if search else until, address, pip)
        send(load_study(study, overrides), order, Terminal(), follow)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="folder of the study")] = Path("runs/quickstart"),
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """See it work: a small model, real data, three selections compared, within minutes."""
    with exit_status():
        from instsel.quickstart.assets import default_cache, prepare_assets
        from instsel.quickstart.study import quickstart_study

        assets = prepare_assets(default_cache(), Terminal().say)
        own = [f"model.name={assets.model}", f"root={assets.root}", f"out={out}"]
        run_and_tell(load_study(quickstart_study(), [*own, *overrides]), STAGES[-1])


def _check_stage(until: str) -> None:
    if until not in STAGES:
        raise InputError(f"--until {until}: no such stage; one of {', '.join(STAGES)}")


def search_and_tell(study: StudyConfig) -> None:
    """Search, and show what came out."""
    from instsel.search.run import BEST, REPORT, search_study

    terminal = Terminal()
    folder = search_study(study, terminal)
    terminal.verdict(folder.read(REPORT).decode())
    terminal.say(f"the best study: instsel run {folder}/{BEST}")


def run_and_tell(study: StudyConfig, until: str) -> None:
    """Run a study through a stage, and show the verdict and the page's address where there is a report."""
    terminal = Terminal()
    graph = run_study(study, terminal, until)
    if until == STAGES[-1]:
        from instsel.report.facts.gather import SUMMARY
        from instsel.report.verdict import tell_verdicts
        from instsel.report.write import PAGE

        report = graph["report"].folder
        tell_verdicts([report.read_json(SUMMARY)["page"]], f"{report}/{PAGE}", terminal, as_json=False)


@contextmanager
def exit_status() -> Iterator[None]:
    """Exit with 2 where the user's input is wrong and 1 where the study failed; the last line says what to change."""
    try:
        yield
    except InputError as error:
        typer.echo(printable(f"error: {error}"), err=True)
        sys.exit(2)
    except StudyError as error:
        typer.echo(printable(f"failed: {error}"), err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        sys.exit(130)
