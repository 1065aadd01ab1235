"""The command `instsel` and the entrypoints of jobs/: parse arguments, call, turn errors into exit statuses."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from instsel import __version__
from instsel.config.file import load_study
from instsel.config.schema import suggestion
from instsel.config.study import StudyConfig
from instsel.console import Terminal, printable
from instsel.errors import InputError, StudyError
from instsel.interrupts import interruptible, is_sigterm
from instsel.pipeline.registry import stage_names
from instsel.pipeline.runner import run_study

STAGES = stage_names()

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

StudyPath = Annotated[str, typer.Argument(help="study file, YAML: a path or URI", metavar="STUDY.yaml")]
StudyFolder = Annotated[str, typer.Argument(help="folder of a study: its `out`", metavar="STUDY_DIR")]
Overrides = Annotated[
    list[str], typer.Option("--set", help="override a key: selection.budget=0.05", metavar="KEY=VALUE")
]
Config = Annotated[str, typer.Option("--config", help="study file, YAML: a path or URI", metavar="STUDY.yaml")]
Redo = Annotated[
    bool,
    typer.Option(
        "--redo",
        help="in a store: delete results of other settings that took more than a minute; on a disk they are kept",
    ),
]
Until = Annotated[str, typer.Option(help=f"last stage to run: {', '.join(STAGES)}", metavar="STAGE")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"instsel {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version, and exit")
    ] = False,
) -> None:
    """Choose the instruction examples that are worth training on, and train on them."""


@app.command()
def run(study: StudyPath, overrides: Overrides = [], until: Until = STAGES[-1], redo: Redo = False) -> None:  # noqa: B006
    """Run a study; resumes where it stopped."""
    with exit_status():
        _check_stage(until)
        run_and_report(load_study(study, overrides), until, redo)


@app.command()
def init(
    paths: Annotated[list[str], typer.Argument(help="files and folders of the pool; default: this folder")] = ["."],  # noqa: B006
    targets: Annotated[
        list[str],
        typer.Option("--target", help="a benchmark of lm-eval, or NAME=FILE with examples; default 5 % of the pool"),
    ] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="study file to write", metavar="STUDY.yaml")] = Path("study.yaml"),
    model: Annotated[str | None, typer.Option(help="folder, URI or hub id of the model; default: a small one")] = None,
    columns: Annotated[
        list[str],
        typer.Option(
            "--column", help="a column that is not known by its name: prompt=ask, answer=reply", metavar="PART=COLUMN"
        ),
    ] = [],  # noqa: B006
) -> None:
    """Write a study file for your own files, commented and ready to run."""
    with exit_status():
        from instsel.pipeline.draft import draft_study

        terminal = Terminal()
        for each in draft_study(paths, targets, out, model, columns):
            terminal.say(str(each))
        terminal.say(f"wrote {out}; look at it by `instsel check {out} --show 3`, run it by `instsel run {out}`")


@app.command()
def check(
    study: StudyPath,
    overrides: Overrides = [],  # noqa: B006
    show: Annotated[int, typer.Option(min=0, help="rows of the pool to show as the model sees them")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print what the files hold as JSON")] = False,
) -> None:
    """Look at a study before it runs: what is wrong, rows that are usable or rejected by file, what the model sees."""
    with exit_status():
        from instsel.pipeline.check import check_study, show_check

        terminal = Terminal()
        checked = check_study(load_study(study, overrides), show)
        if as_json:
            terminal.data(asdict(checked))
        else:
            show_check(checked, terminal)
        if checked.problems:
            raise InputError("\n  ".join([f"{len(checked.problems)} to mend:", *checked.problems]))
        if not as_json:
            terminal.say(f"nothing to mend: instsel plan {study} tells what it takes, instsel run {study} runs it")


@app.command()
def plan(
    study: StudyPath,
    overrides: Overrides = [],  # noqa: B006
    cluster: Annotated[
        str | None, typer.Option(help="plan for another cluster: 8xH100, 2x8xH100, 4xcpu", metavar="CLUSTER")
    ] = None,
    rates: Annotated[str | None, typer.Option(help="file of rates measured on such a device", metavar="FILE")] = None,
    price: Annotated[
        float | None, typer.Option(help="of a GPU (of cpu: a machine) per hour; adds the cost to the plan")
    ] = None,
    save_rates: Annotated[
        str | None, typer.Option(help="write the rates measured here to a file", metavar="FILE")
    ] = None,
) -> None:
    """Estimate the cost of a study before it starts: rows, tokens, hours, memory and disk of every stage."""
    with exit_status():
        from instsel.planner.cluster import TargetCluster
        from instsel.planner.run import plan_study

        target = TargetCluster.from_options(cluster, rates, price, save_rates)
        plan_study(load_study(study, overrides), Terminal(), target=target)


@app.command()
def select(
    study: StudyFolder,
    method: Annotated[str, typer.Option(help="name of a method: bids, less, g2is, smart, ...")],
    budget: Annotated[str, typer.Option(help="0.1 is a fraction of the pool, 500 a count")],
    unit: Annotated[str, typer.Option(help="what the budget counts: rows or tokens")] = "rows",
    targets: Annotated[str | None, typer.Option(help="targets to choose for, by default all", metavar="A,B")] = None,
    options: Annotated[
        list[str], typer.Option("--set", help="option of the method: delta=0.9", metavar="KEY=VALUE")
    ] = [],  # noqa: B006
    attribution: Annotated[str | None, typer.Option(help="cosine, fisher or contrast, by default as the study")] = None,
    name: Annotated[str | None, typer.Option(help="name of the selection")] = None,
) -> None:
    """Make a new selection from a finished study's stored gradients and embeddings, without a GPU."""
    with exit_status():
        from instsel.choice.reselect import SelectionRequest, reselect
        from instsel.report.explanation import selection_summary

        terminal = Terminal()
        chosen = targets.split(",") if targets else None
        request = SelectionRequest(method, budget, unit, chosen, options, attribution, name)
        terminal.result(selection_summary(reselect(study, request, terminal.say)))


@app.command()
def explain(study: StudyFolder, row: Annotated[str, typer.Argument(help="id of a pool row", metavar="ROW_ID")]) -> None:
    """Explain why a row was, or was not, selected: its rank under each method, which targets it helps and hurts."""
    with exit_status():
        from instsel.choice.explain import explain as explain_row
        from instsel.report.explanation import row_explanation

        Terminal().result(row_explanation(explain_row(study, row)))


@app.command()
def export(
    study: StudyFolder,
    selection: Annotated[str, typer.Option(help="name of a selection: a method's, or made by `instsel select`")],
    rows: Annotated[
        str, typer.Option(help="format: messages, sharegpt, alpaca or prompt_completion", metavar="FORMAT")
    ] = "messages",
    out: Annotated[Path | None, typer.Option(help="file to write, JSONL; default: standard output")] = None,
) -> None:
    """Write the rows of a selection in the format of another trainer."""
    with exit_status():
        from instsel.choice.export import export_rows, write_lines

        lines, rejected = export_rows(study, selection, rows)
        count = write_lines(lines, out)
        others = f"; {len(rejected):,} do not fit, such as {rejected[0]}" if rejected else ""
        # Standard output is the rows'.
        typer.echo(printable(f"{count:,} rows{others}"), err=out is None)


@app.command()
def report(
    studies: Annotated[list[str], typer.Argument(help="folders of studies: their `out`", metavar="STUDY_DIR...")],
    out: Annotated[
        str | None,
        typer.Option(help="file to write; default report/report.html in the folder, ./report.html for several"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the results as JSON")] = False,
) -> None:
    """Rebuild report.html of a study, or of several side by side, from stored results, and print the results."""
    with exit_status():
        from instsel.report.html import write_report
        from instsel.report.terminal import show_results

        facts, page = write_report(studies, out)
        show_results(facts, page, Terminal(), json=as_json)


@app.command()
def search(study: StudyPath, overrides: Overrides = [], redo: Redo = False) -> None:  # noqa: B006
    """Search methods, budgets, mixtures, orders and settings for the best study file; resumes where it stopped."""
    with exit_status():
        search_and_report(load_study(study, overrides), redo)


@app.command()
def clean(study: StudyFolder) -> None:
    """Delete results of earlier settings, which a study keeps in its folder `stale`."""
    with exit_status():
        from instsel.study.redo import clean_study

        clean_study(study, Terminal().say)


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
    follow: Annotated[bool, typer.Option(help="follow the log; Ctrl-C stops following, the job continues")] = True,
    redo: Redo = False,
) -> None:
    """Run a study as a job on a Ray cluster, or reattach to it. A job submitted again resumes where it stopped."""
    with exit_status():
        from instsel.runtime.jobs import JobSpec
        from instsel.runtime.jobs import submit as send

        _check_stage(until)
        spec = JobSpec(study, overrides, "search" if search else "run", None if search else until, address, pip, redo)
        send(load_study(study, overrides), spec, Terminal(), follow)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="folder of the study")] = Path("runs/quickstart"),
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Try it: a small model, real data, three selections compared, in minutes."""
    with exit_status():
        from instsel.quickstart.assets import default_cache, prepare_assets, quickstart_study

        assets = prepare_assets(default_cache(), Terminal().say)
        settings = [f"model.name={assets.model}", f"root={assets.root}", f"out={out}"]
        run_and_report(load_study(quickstart_study(), [*settings, *overrides]), STAGES[-1])


def _check_stage(until: str) -> None:
    if until not in STAGES:
        raise InputError(f"--until {until}: no such stage; one of {', '.join(STAGES)}{suggestion(until, STAGES)}")


def search_and_report(study: StudyConfig, redo: bool = False) -> None:
    """Run a search and print its report."""
    from instsel.search.run import BEST, REPORT, search_study

    terminal = Terminal()
    folder = search_study(study, terminal, redo)
    terminal.result(folder.read(REPORT).decode())
    terminal.say(f"the best study: instsel run {folder}/{BEST}")


def run_and_report(study: StudyConfig, until: str, redo: bool = False) -> None:
    """Run a study through a stage; if that is the report, print the results and the path of the page."""
    terminal = Terminal()
    graph = run_study(study, terminal, until, redo=redo)
    if until == STAGES[-1]:
        from instsel.report.collect import read_summary
        from instsel.report.html import PAGE
        from instsel.report.terminal import show_results

        report = graph["report"].folder
        show_results([read_summary(report)], f"{report}/{PAGE}", terminal)


@contextmanager
def exit_status() -> Iterator[None]:
    """Exit with status 2 on InputError and 1 on StudyError; the last line says what to change.

    SIGTERM ends the command with status 143, Ctrl-C with 130.
    """
    try:
        with interruptible():
            yield
    except InputError as error:
        typer.echo(printable(f"error: {error}"), err=True)
        sys.exit(2)
    except StudyError as error:
        typer.echo(printable(f"failed: {error}"), err=True)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and not is_sigterm(error):
            raise
        typer.echo("stopped; run the same command again to resume", err=True)
        sys.exit(143 if is_sigterm(error) else 130)


def run_job(stage: str = STAGES[-1]) -> None:
    """Run the entrypoint of a Ray job, `--config STUDY.yaml [--set KEY=VALUE ...] [--redo]`: a study up to `stage`."""

    def main(config: Config, overrides: Overrides = [], redo: Redo = False) -> None:  # noqa: B006
        with exit_status():
            run_and_report(load_study(config, overrides), stage, redo)

    typer.run(main)


def search_job() -> None:
    """Run the entrypoint of a Ray job, `--config STUDY.yaml [--set KEY=VALUE ...] [--redo]`: the search of a study."""

    def main(config: Config, overrides: Overrides = [], redo: Redo = False) -> None:  # noqa: B006
        with exit_status():
            search_and_report(load_study(config, overrides), redo)

    typer.run(main)
