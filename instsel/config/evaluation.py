"""The schema of `evaluation`: losses, scores, intervals, and an evaluation of the user's own."""

import shlex

from pydantic import Field, field_validator

from instsel.strict import StrictModel

PLACEHOLDERS = ("model", "adapter", "merged", "out")
"""What a command may name in braces; `out` it has to name."""


def split_command(command: str) -> list[str]:
    """Split a command into arguments, as a shell does; no shell runs it.

    Raises:
        ValueError: its quotes do not match, it names a placeholder that there is none, or lacks `{out}`.
    """
    arguments = shlex.split(command)
    joined = " ".join(arguments)
    try:
        joined.format_map(dict.fromkeys(PLACEHOLDERS, ""))
    except (KeyError, IndexError, ValueError) as error:
        named = ", ".join(f"{{{placeholder}}}" for placeholder in PLACEHOLDERS)
        raise ValueError(f"the command may name {named} in braces; {error} is none of them") from error
    if "{out}" not in joined:
        raise ValueError("the command has to name {out}, the file that it writes its items to")
    return arguments


class Command(StrictModel):
    run: str = Field(
        description="command that scores a model, run once for the base model and each run; {model}, {adapter} (empty "
        "for the base model), {merged} (a folder with the adapter merged into the model) and {out} (JSON lines of its "
        "items: target, item, correct) are filled in"
    )
    scores: list[str] = Field(min_length=1, description="targets and guards that it scores")

    @field_validator("run")
    @classmethod
    def _check_run(cls, run: str) -> str:
        split_command(run)
        return run


class Evaluation(StrictModel):
    token_budget: int = Field(4096, ge=16, description="padded tokens of one forward pass")
    form_and_content: bool = Field(
        False,
        description="split gains in held-out loss into what all answers to a prompt gain and what the right one gains "
        "beyond; takes as many passes more as there are `answers.others`, and one",
    )
    headroom: bool = Field(
        False,
        description="train on rows that serve each target and score its validation rows; targets that do not move are "
        "marked, and left out of means and verdicts",
    )
    searched_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of each target's held-out rows that a search chose this study by (its `search.share`); "
        "losses are of the others alone. Written into best.yaml",
    )
    bootstrap_samples: int = Field(2000, ge=100, description="resamples behind each interval")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="coverage of the intervals")
    seed: int = Field(0, ge=0, description="seed of the resampling")
    command: Command | None = Field(None, description="an evaluation of your own, whose items count as the others do")
    run_code: bool = Field(
        False, description="let `scoring: code` run what a model wrote, in a child process without network"
    )
