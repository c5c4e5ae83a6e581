"""What a campaign has found, for the table that ``make chaos`` prints."""

import sys
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Figures:
    """Redone work of every recovery, by event; whoever does not recover never gets here."""

    redone: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    of: dict[str, str] = field(default_factory=dict)

    def add(self, event: str, redone: int, of: str) -> None:
        """Note a recovery; ``of`` says what is counted and out of how many."""
        self.redone[event].append(redone)
        self.of[event] = of
        # At once, too: a campaign may end before its summary.
        sys.stderr.write(f"figure: {event}: {redone} of {of}\n")

    def __bool__(self) -> bool:
        return bool(self.redone)

    def as_text(self) -> str:
        rows = [
            f"{event:<52} {len(redone):>6} {max(redone):>12} of {self.of[event]}"
            for event, redone in self.redone.items()
        ]
        return "\n".join([f"{'event':<52} {'times':>6} {'redone, max':>12}", *rows])


FIGURES = Figures()
