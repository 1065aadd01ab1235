"""What would end a study after hours, looked for in seconds before Ray starts: files, model, template, DeepSpeed, Ray.

Each check lies with what it checks; here they are put together, so that all problems are listed at once. Only this
machine is looked at: a model that the hub has still to give is mentioned, and passed over.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from instsel.config.mixture import Mixture
from instsel.config.schema import suggestion
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.data.named_columns import missing_columns
from instsel.data.sources import check_files, files_with_columns
from instsel.errors import InputError, Problem
from instsel.study.dependencies import categories_by_embeddings

MOST_KEYS = 10


def preflight(study: StudyConfig) -> list[Problem]:
    """Look for everything that would end a study and that can be known without running it.

    Returns:
        What is wrong, by key of the study file, in the order of the checks; each thing once.
    """
    # What takes longest to load comes last, and is not loaded where there is nothing to look at.
    checks: list[Callable[[StudyConfig], Iterable[Problem]]] = [file_problems, _ray, _deepspeed, _model, _encoder]
    return list(dict.fromkeys(problem for check in checks for problem in check(study)))


def require_no_problem(study: StudyConfig, terminal: Terminal, first: InputError | None = None) -> None:
    """Check a study before it starts; what is only worth a mention is printed.

    Args:
        study: the checked study file.
        terminal: where to print.
        first: an error that is known already, to be listed with the others.

    Raises:
        InputError: listing every problem with its key.
    """
    problems = preflight(study)
    known = [] if first is None else [str(first)]
    fatal = list(dict.fromkeys([*known, *(str(problem) for problem in problems if problem.is_fatal)]))
    for problem in problems:
        if not problem.is_fatal and not fatal:
            terminal.say(f"note: {problem}")
    if len(fatal) == 1:
        raise InputError(fatal[0])
    if fatal:
        raise InputError(f"{len(fatal)} problems, found before anything was run:\n  " + "\n  ".join(fatal))


@contextmanager
def problems_listed(study: StudyConfig, terminal: Terminal) -> Iterator[None]:
    """Let an error of the block, which looks at a study's files, be listed with all that is wrong besides.

    Raises:
        InputError: as `require_no_problem`.
    """
    try:
        yield
    except InputError as error:
        require_no_problem(study, terminal, error)


def file_problems(study: StudyConfig) -> Iterator[Problem]:
    """Look at the files of pool, targets and test rows: their first bytes; of rows whether named columns are there."""
    for problem in check_files(study):
        key, _, message = problem.partition(": ")
        yield Problem(key, message)
    for part, files in files_with_columns(study):
        with suppress(InputError):
            missing, known, in_none = missing_columns(files)
            for name, column in missing:
                near = suggestion(column, known) or f"; they have {', '.join(known[:MOST_KEYS])}"
                rows = "no row has" if in_none else "none of the first rows has"
                yield Problem(f"{part}.columns.{name}", f"{rows} a column {column}{near}", is_fatal=in_none)


def _ray(study: StudyConfig) -> list[Problem]:
    from instsel.runtime.reachable import ray_problems

    ray: Any = sys.modules.get("ray")
    # A session that runs already is used, whatever the study says.
    return [] if ray is not None and ray.is_initialized() else ray_problems(study.resources)


def _deepspeed(study: StudyConfig) -> list[Problem]:
    if study.deepspeed.config is None:
        return []
    from instsel.training.deepspeed_schema import deepspeed_problems

    return deepspeed_problems(study)


def _model(study: StudyConfig) -> list[Problem]:
    from instsel.models.checks import model_problems

    return model_problems(study)


def _encoder(study: StudyConfig) -> list[Problem]:
    mixture: Mixture | None = study.mixture
    is_used = any(method.requires == "embeddings" for method in study.selection.methods)
    if not is_used and (mixture is None or not categories_by_embeddings(mixture)):
        return []
    from instsel.models.checks import encoder_problems

    return encoder_problems(study.embedding)
