"""What a person is told when actors run out of memory and go on with smaller batches."""

from instsel.progress import Terminal


class Shortage:
    """Tells that workers ran out of memory: once, and again only if batches have to be half of what was told then."""

    def __init__(self, key: str, token_budget: int, terminal: Terminal) -> None:
        """Start with what the study file says.

        Args:
            key: of the study file.
            token_budget: its value, most padded tokens of a batch.
            terminal: where it is told.
        """
        self.key, self.asked, self.told = key, token_budget, token_budget
        self.recompute = False
        self.terminal = terminal

    def look(self, token_budget: int, recompute: bool = False) -> None:
        """Take in the budget that an actor has now, and whether it recomputes activations."""
        if 2 * token_budget > self.told and recompute <= self.recompute:
            return
        self.told, self.recompute = min(token_budget, self.told), recompute or self.recompute
        self.terminal.say(
            f"a worker ran out of memory: batches of at most {self.told} tokens from here "
            f"({self.key} is {self.asked}){', activations recomputed' if self.recompute else ''}"
        )
