"""A run's privacy budget: what it may give away, what it has, and whether the next round fits."""

from collections.abc import Callable, Iterable, Iterator

from pocketfed.server.privacy.accountant import Release, epsilon_of
from pocketfed.server.privacy.ledger import Ledger


class Budget:
    """Checked before a round begins, charged before its model is seen."""

    def __init__(self, ledger: Ledger, release: Release, epsilon: float, delta: float) -> None:
        """A budget.

        Args:
            ledger: of the run.
            release: what each round to come costs.
            epsilon: what all rounds together may cost.
            delta: at which that is counted.
        """
        self._ledger, self._release = ledger, release
        self.epsilon, self.delta = epsilon, delta

    @property
    def spent(self) -> float:
        """Epsilon of all releases so far."""
        return epsilon_of(self._so_far, self.delta)

    def after(self, rounds: int) -> float:
        """Epsilon of all releases so far and so many more rounds."""
        return epsilon_of([*self._so_far, *[self._release] * rounds], self.delta)

    def rounds_left(self, most: int) -> int:
        """How many more rounds fit, at most `most`."""
        few, many = 0, most + 1  # so many fit; so many do not, or are not asked for
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (middle, many) if self.after(middle) <= self.epsilon else (few, middle)
        return few

    def charge(self, round_number: int) -> float:
        """Write a round's release down; the epsilon that is spent then.

        Raises:
            RunFolderError: it cannot be written, so the round must not be released.
        """
        self._ledger.add(round_number, self._release)
        return self.spent

    def spent_up(self) -> str | None:
        """Why no further round can begin, or None if one can."""
        wanted = self.after(1)
        if wanted <= self.epsilon:
            return None
        return (
            f"the privacy budget is spent: epsilon is {self.spent:.3f} after {len(self._ledger.releases)} rounds, one "
            f"more would make it {wanted:.3f}, and privacy.epsilon is {self.epsilon:g}"
        )

    def affordable(self, numbers: Iterable[int], tell: Callable[[str], None]) -> Iterator[int]:
        """Those rounds that fit, one by one; `tell` is told why there are no more."""
        for number in numbers:
            reason = self.spent_up()
            if reason is not None:
                tell(reason)
                return
            yield number

    @property
    def _so_far(self) -> list[Release]:
        return [release for _, release in self._ledger.releases]
