"""The entrypoint of a Ray job, which the scripts in jobs/ call: `--config STUDY.yaml [--set KEY=VALUE ...]`."""

from typing import Annotated

import typer

from instsel.cli.app import Overrides, exit_status, run_and_tell, search_and_tell
from instsel.config.file import load_study
from instsel.pipeline.registry import stage_names

Config = Annotated[str, typer.Option("--config", help="study file, YAML: a path or URI", metavar="STUDY.yaml")]


def run_through(stage: str = stage_names()[-1]) -> None:
    """Parse the command line, run the study through `stage`, and exit with the status that `instsel run` has."""

    def main(config: Config, overrides: Overrides = []) -> None:  # noqa: B006
        with exit_status():
            run_and_tell(load_study(config, overrides), stage)

    typer.run(main)


def search() -> None:
    """Parse the command line and search, as `instsel search` does."""

    def main(config: Config, overrides: Overrides = []) -> None:  # noqa: B006
        with exit_status():
            search_and_tell(load_study(config, overrides))

    typer.run(main)
