"""Measured rates in a file, so that a study can be planned where there is no such device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue, TypeAdapter, ValidationError

from instsel import __version__
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.estimates import BatchProbe, Throughput, TrainingProbe

HOW = "measure once on a machine with such a device: instsel plan STUDY.yaml --save-rates rates.json"
NOTHING = "--save-rates: nothing to measure, every stage with a model is done; plan with --set out=NEW_FOLDER"

Probe = BatchProbe | TrainingProbe


@dataclass(frozen=True)
class Rate:
    """What was measured of a stage.

    Attributes:
        dependencies: what the rate depends on: model, lengths, sizes of batches.
        throughput: as it was measured.
    """

    dependencies: dict[str, JsonValue]
    throughput: Throughput


@dataclass(frozen=True)
class Rates:
    """What was measured of the stages of a study on some kind of device.

    Attributes:
        stages: stage -> its rate; those that were done, or that the study does not need, are missing.
        mean_tokens: of a row of the pool that it was measured on.
        version: of the code.
    """

    stages: dict[str, Rate]
    mean_tokens: float
    version: str = __version__

    def throughput(self, stage: str, dependencies: Mapping[str, JsonValue]) -> Throughput:
        """Return the rate of a stage.

        Args:
            stage: its name.
            dependencies: what its rate depends on in the study that is planned.

        Raises:
            InputError: it was not measured, or for something else.
        """
        if stage not in self.stages:
            raise InputError(
                f"--rates: {stage} was not measured; measure a study that still has it to do "
                "(--save-rates, with --set out=NEW_FOLDER)"
            )
        known = self.stages[stage].dependencies
        asked = _as_json(dependencies)
        differing = [key for key in sorted({*known, *asked}) if known.get(key) != asked.get(key)]
        if differing:
            text = ", ".join(_difference(key, known.get(key), asked.get(key)) for key in differing)
            raise InputError(f"--rates: {stage} was measured for something else: {text}; measure it again")
        return self.stages[stage].throughput

    @property
    def dtype(self) -> Literal["float32", "bfloat16"] | None:
        """The type in which the model was measured; None where only the encoder was."""
        models: list[Any] = [
            rate.dependencies["model"] for rate in self.stages.values() if "model" in rate.dependencies
        ]
        return models[0]["dtype"] if models else None


@dataclass(frozen=True)
class MeasuredRate:
    """The rate of a stage.

    Attributes:
        probe: what was timed.
        measured: the rate as it was measured.
        expected: what becomes of it where the study is to run.
    """

    probe: Probe
    measured: Throughput
    expected: Throughput


def save_rates(path: str, rates: Mapping[str, MeasuredRate], mean_tokens: float) -> None:
    """Write what was measured into a file.

    Raises:
        InputError: nothing was.
    """
    if not rates:
        raise InputError(NOTHING)
    stages = {name: Rate(dict(rate.probe.dependencies()), rate.measured) for name, rate in rates.items()}
    write_rates(path, Rates(stages, mean_tokens))


def write_rates(path: str, rates: Rates) -> None:
    """Write a file of rates, JSON, on a local path or behind a URI."""
    folder, name = _split(path)
    folder.write_json(name, TypeAdapter(Rates).dump_python(rates, mode="json"))


def read_rates(path: str) -> Rates:
    """Read what `write_rates` wrote.

    Raises:
        InputError: it is not there, or no such file.
    """
    folder, name = _split(path)
    try:
        return TypeAdapter(Rates).validate_json(folder.read(name), strict=True)
    except OSError as error:
        raise InputError(f"--rates {path} cannot be read ({error}); {HOW}") from error
    except ValidationError as error:
        raise InputError(f"--rates {path} is no file of rates ({error.error_count()} errors); {HOW}") from error


def _as_json(values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return values as JSON has them: tuples are lists there."""
    plain: dict[str, JsonValue] = TypeAdapter(dict[str, JsonValue]).dump_python(dict(values), mode="json")
    return plain


def _difference(key: str, known: JsonValue, asked: JsonValue) -> str:
    simple = all(value is None or isinstance(value, str | int | float) for value in (known, asked))
    return f"{key} {known}, here {asked}" if simple else f"another {key}"


def _split(path: str) -> tuple[Folder, str]:
    folder, _, name = path.rpartition("/")
    return Folder.at(folder or "."), name
