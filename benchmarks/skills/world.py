"""Skills on short texts, and the rows of a world: a pool with planted rows, validation rows and test rows by seed.

Every skill maps a text to a text, so the right answer of any row is known, and with it what an ideal chooser takes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase, ascii_uppercase
from typing import Literal

import numpy as np

Distance = Literal["near", "far"]
DISTANCES: tuple[Distance, ...] = ("near", "far")
Kind = Literal["right", "wrong", "near_copy", "useless"]
KINDS: tuple[Kind, ...] = ("right", "wrong", "near_copy", "useless")
VOWELS = "aeiou"
CONSONANTS = "".join(letter for letter in ascii_lowercase if letter not in VOWELS)
SYMBOLS = ascii_lowercase + ascii_uppercase + "0123456789+."
"""All symbols of inputs and answers."""
Draw = np.random.Generator

# Streams of random numbers are told apart by a number of their own.
_WORLD_STREAM = 2
# Of wrong answers, those that are the answer to another input.
_OTHER_INPUT = 0.5


@dataclass(frozen=True)
class Skill:
    """A function of texts and the inputs that it is asked about.

    Attributes:
        answer: the right answer of an input.
        draw: draws an input; the flag asks for one so short that nothing is to be learned from it.
    """

    answer: Callable[[str], str]
    draw: Callable[[Draw, bool], str]


def _word(draw: Draw, trivial: bool) -> str:
    """Draw 4 to 7 letters, a third of them vowels; a single one where it shall be trivial."""
    length = 1 if trivial else int(draw.integers(4, 8))
    return "".join(_letter(draw) for _ in range(length))


def _letter(draw: Draw) -> str:
    letters = VOWELS if draw.random() < 1 / 3 else CONSONANTS
    return letters[int(draw.integers(len(letters)))]


def _numbers(draw: Draw, trivial: bool) -> str:
    """Draw two numbers of two digits, or of 0 and 1."""
    low, high = (0, 2) if trivial else (10, 100)
    first, second = draw.integers(low, high, size=2).tolist()
    return f"{first}+{second}"


def _shift(text: str) -> str:
    """Replace every letter by the next one of the alphabet."""
    return "".join(ascii_lowercase[(ascii_lowercase.index(letter) + 1) % 26] for letter in text)


def _drop(text: str) -> str:
    return "".join(letter for letter in text if letter not in VOWELS) or "."


def _swap(text: str) -> str:
    """Exchange the halves of a text; the first has the letter in the middle."""
    half = (len(text) + 1) // 2
    return text[half:] + text[:half]


def _plus(text: str) -> str:
    first, second = text.split("+")
    return str(int(first) + int(second))


SKILLS: dict[str, Skill] = {
    "copy": Skill(lambda text: text, _word),
    "turn": Skill(lambda text: text[::-1], _word),
    "sort": Skill(lambda text: "".join(sorted(text)), _word),
    "fall": Skill(lambda text: "".join(sorted(text, reverse=True)), _word),
    "shift": Skill(_shift, _word),
    "shiftup": Skill(lambda text: _shift(text).upper(), _word),
    "vowels": Skill(lambda text: "".join(letter for letter in text if letter in VOWELS) or ".", _word),
    "drop": Skill(_drop, _word),
    "dropup": Skill(lambda text: _drop(text).upper(), _word),
    "swap": Skill(_swap, _word),
    "swapup": Skill(lambda text: _swap(text).upper(), _word),
    "roll": Skill(lambda text: text[1:] + text[:1], _word),
    "odd": Skill(lambda text: text[::2], _word),
    "even": Skill(lambda text: text[1::2] or ".", _word),
    "upper": Skill(lambda text: text.upper(), _word),
    "plus": Skill(_plus, _numbers),
}


@dataclass(frozen=True)
class Row:
    """A row of a pool or a target.

    Attributes:
        id: unique within a world.
        skill: whose instruction the prompt has.
        kind: "wrong" rows have an answer that is not the skill's, "near_copy" rows differ from another row of the pool
            in one symbol, "useless" rows are so short that the model answers them already.
        text: the input of the skill.
        answer: what the row says that the answer is.
    """

    id: str
    skill: str
    kind: Kind
    text: str
    answer: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The row as a conversation."""
        return [
            {"role": "user", "content": f"{self.skill}: {self.text}"},
            {"role": "assistant", "content": self.answer},
        ]


@dataclass(frozen=True)
class WorldSettings:
    """What a world is made of; seeds are given apart.

    Attributes:
        skills: of the pool and of the base model's training.
        related: for each target the skills that share its operation; the keys are the targets.
        pool_rows: rows of the pool.
        shares: of the pool by kind; they sum to 1.
        copies: near-copies of one row.
        validation_rows: rows of a target that a selector sees.
        test_rows: rows of a target that accuracy is measured on.
    """

    skills: tuple[str, ...]
    related: Mapping[str, tuple[str, ...]]
    pool_rows: int
    shares: Mapping[Kind, float]
    copies: int
    validation_rows: int
    test_rows: int

    @property
    def targets(self) -> tuple[str, ...]:
        """The skills that a selection shall improve, sorted."""
        return tuple(sorted(self.related))


@dataclass(frozen=True)
class World:
    """The rows of one seed.

    Attributes:
        pool: n rows; a selector knows neither their kind nor which are helpful.
        validation: rows of the targets, target after target.
        test: the same, others.
        good: skills that help: the targets, or the skills related to them where the pool has none of the targets.
    """

    pool: list[Row]
    validation: list[Row]
    test: list[Row]
    good: frozenset[str]

    @property
    def of_good_skill(self) -> np.ndarray:
        """The rows that name a skill that helps, wrong ones too, bool (n,)."""
        return np.array([row.skill in self.good for row in self.pool])

    @property
    def helpful(self) -> np.ndarray:
        """The rows that the ideal chooser takes, bool (n,): right rows of the skills that help."""
        helpful: np.ndarray = self.of_good_skill & self.of_kind("right")
        return helpful

    def of_kind(self, kind: Kind) -> np.ndarray:
        """Return which rows of the pool are of a kind, bool (n,)."""
        return np.array([row.kind == kind for row in self.pool])


def make_world(settings: WorldSettings, distance: Distance, seed: int) -> World:
    """Draw the rows of a world; no input of a skill is in two of pool, validation and test, trivial ones excepted.

    Args:
        settings: what it is made of.
        distance: "near" has rows of all skills in the pool, "far" none of the target skills.
        seed: of all rows.
    """
    rows = _Rows(np.random.default_rng([_WORLD_STREAM, DISTANCES.index(distance), seed]))
    targets = settings.targets
    test = [rows.right(skill, f"test-{skill}-{i}") for skill in targets for i in range(settings.test_rows)]
    validation = [
        rows.right(skill, f"validation-{skill}-{i}") for skill in targets for i in range(settings.validation_rows)
    ]
    skills = [skill for skill in settings.skills if distance == "near" or skill not in targets]
    pool = rows.pool(skills, settings)
    related = {name for names in settings.related.values() for name in names}
    return World(pool, validation, test, frozenset(targets if distance == "near" else related))


class _Rows:
    """Draws rows and remembers the inputs that are taken."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.taken: set[tuple[str, str]] = set()

    def right(self, skill: str, name: str) -> Row:
        text = self._fresh(skill)
        return Row(name, skill, "right", text, SKILLS[skill].answer(text))

    def pool(self, skills: Sequence[str], settings: WorldSettings) -> list[Row]:
        """Draw the pool: kinds as their shares say, skills in turn within a kind, then shuffled."""
        counts = {kind: round(settings.shares[kind] * settings.pool_rows) for kind in KINDS}
        counts["right"] += settings.pool_rows - sum(counts.values())
        right = [self.right(skills[i % len(skills)], "") for i in range(counts["right"])]
        copied = [right[i // settings.copies] for i in range(counts["near_copy"])]
        rows = [
            *right,
            *(self._wrong(skills[i % len(skills)]) for i in range(counts["wrong"])),
            *(self._near_copy(row) for row in copied),
            *(self._useless(skills[i % len(skills)]) for i in range(counts["useless"])),
        ]
        order = self.draw.permutation(len(rows))
        return [replace(rows[index], id=f"pool-{place}") for place, index in enumerate(order)]

    def _fresh(self, skill: str) -> str:
        while True:
            text = SKILLS[skill].draw(self.draw, False)
            if (skill, text) not in self.taken:
                self.taken.add((skill, text))
                return text

    def _wrong(self, skill: str) -> Row:
        """Draw a row whose answer is that of another input, or the right one with its symbols in another order."""
        text = self._fresh(skill)
        right = SKILLS[skill].answer(text)
        while True:
            other = SKILLS[skill].answer(SKILLS[skill].draw(self.draw, False))
            mixed = "".join(self.draw.permutation(list(right)).tolist())
            answer = other if self.draw.random() < _OTHER_INPUT else mixed
            if answer != right:
                return Row("", skill, "wrong", text, answer)

    def _near_copy(self, row: Row) -> Row:
        """Copy a row with one symbol of its input drawn again; the answer is right."""
        while True:
            place = int(self.draw.integers(len(row.text)))
            old = row.text[place]
            if not old.isalnum():
                continue
            new = _letter(self.draw) if old.isalpha() else str(self.draw.integers(1, 10))
            text = row.text[:place] + new + row.text[place + 1 :]
            if (row.skill, text) not in self.taken:
                self.taken.add((row.skill, text))
                return Row("", row.skill, "near_copy", text, SKILLS[row.skill].answer(text))

    def _useless(self, skill: str) -> Row:
        text = SKILLS[skill].draw(self.draw, True)
        return Row("", skill, "useless", text, SKILLS[skill].answer(text))
