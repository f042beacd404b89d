"""What a stock Flower app is told: values that Flower took from a command line as strings and numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketfed.core.errors import ConfigError


class Settings:
    """Reads values by key, and reports every mistake at once."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        """Nothing is read yet.

        Args:
            values: by key; "" stands for none.
            where: how a user gives them.
        """
        self._values, self._where = values, where
        self._problems: list[str] = []

    def path(self, key: str) -> Path:
        """A path that must be given. Flower's processes have a working directory of their own: it is absolute."""
        if not self.has(key):
            self._problems.append(f"{key}: is missing; give it with {self._where}")
            return Path()
        path = Path(str(self._values[key])).expanduser()
        if not path.is_absolute():
            self._problems.append(f"{key}: give an absolute path (got {self._values[key]!r})")
        return path

    def optional_path(self, key: str) -> Path | None:
        """A path, None if it is not given."""
        return self.path(key) if self.has(key) else None

    def number(self, key: str) -> int:
        """A whole number that must be given, not negative."""
        value = self._values.get(key, "")
        if value == "":
            self._problems.append(f"{key}: is missing; give it with {self._where}")
        elif type(value) is not int or value < 0:
            self._problems.append(f"{key}: give a whole number, not negative (got {value!r})")
        return value if type(value) is int else 0

    def has(self, key: str) -> bool:
        """Whether there is a value."""
        return bool(self._values.get(key, "") != "")

    def check(self) -> None:
        """Report what was wrong so far.

        Raises:
            ConfigError: there was a mistake.
        """
        if self._problems:
            raise ConfigError(self._problems)
