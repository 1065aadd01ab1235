"""Measured paces in a file, so that a study can be planned where there is no such device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from instsel import __version__
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.planner.facts import Throughput

HOW = "measure once on a machine with such a device: instsel plan STUDY.yaml --save-rates rates.json"
# Stages whose processes hold a model.
MODEL_STAGES = ("embed", "hidden_states", "likelihood", "warmup", "features", "interaction", "finetune", "evaluate")


@dataclass(frozen=True)
class Rate:
    """What was measured of one stage.

    Attributes:
        dependencies: what the pace depends on: model, lengths, sizes of batches.
        pace: as it was measured.
    """

    dependencies: dict[str, Any]
    pace: Throughput


@dataclass(frozen=True)
class Rates:
    """What was measured of the stages of a study on one kind of device.

    Attributes:
        stages: stage -> its rate; those that were done, or that the study does not need, are left out.
        checkpoint_bytes: files of a checkpoint.
        mean_tokens: of a row of the pool that it was measured on.
        version: of the code.
    """

    stages: dict[str, Rate]
    checkpoint_bytes: int
    mean_tokens: float
    version: str = __version__

    @property
    def devices(self) -> list[str]:
        """Names of the devices, each once."""
        return sorted({rate.pace.device for rate in self.stages.values()})

    def pace(self, stage: str, dependencies: Mapping[str, Any]) -> Throughput:
        """The pace of a stage.

        Args:
            stage: its name.
            dependencies: what its pace depends on in the study that is planned.

        Raises:
            InputError: it was not measured, or for something else.
        """
        if stage not in self.stages:
            raise InputError(
                f"--rates: {stage} was not measured; measure a study that still has it to do "
                "(--save-rates, with --set out=NEW_FOLDER)"
            )
        known = self.stages[stage].dependencies
        # As JSON has it: tuples are lists there.
        asked = TypeAdapter(dict[str, Any]).dump_python(dict(dependencies), mode="json")
        differing = [key for key in sorted({*known, *asked}) if known.get(key) != asked.get(key)]
        if differing:
            told = ", ".join(_told(key, known.get(key), asked.get(key)) for key in differing)
            raise InputError(f"--rates: {stage} was measured for something else: {told}; measure it again")
        return self.stages[stage].pace


def write_rates(place: str, rates: Rates) -> None:
    """Write a file of rates, JSON, on a local path or behind a URI."""
    folder, name = _split(place)
    folder.write_json(name, TypeAdapter(Rates).dump_python(rates, mode="json"))


def read_rates(place: str) -> Rates:
    """Read what `write_rates` wrote.

    Raises:
        InputError: it is not there, or no such file.
    """
    folder, name = _split(place)
    try:
        return TypeAdapter(Rates).validate_json(folder.read(name), strict=True)
    except OSError as error:
        raise InputError(f"--rates {place} cannot be read ({error}); {HOW}") from error
    except ValidationError as error:
        raise InputError(f"--rates {place} is no file of rates ({error.error_count()} errors); {HOW}") from error


def _told(key: str, known: Any, asked: Any) -> str:
    simple = all(value is None or isinstance(value, str | int | float) for value in (known, asked))
    return f"{key} {known}, here {asked}" if simple else f"another {key}"


def _split(place: str) -> tuple[Folder, str]:
    folder, _, name = place.rpartition("/")
    return Folder.at(folder or "."), name
