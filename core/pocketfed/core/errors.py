"""Every error that pocketfed raises on purpose.

    PocketfedError
    ├── UserError                  something the user can mend; the command line prints it and exits with code 2
    │   ├── ConfigError            one or more values of a configuration, all reported at once
    │   ├── CaptureError           a photo, a sound, or a folder of them
    │   ├── RunFolderError         a run folder that is missing, foreign, or of another version
    │   ├── MissingPackageError    an optional package that this command needs
    │   ├── NoPhonesError          the phones that a run was promised did not come
    │   ├── ExportError            a network that cannot be turned into a program
    │   ├── BenchmarkError         a measurement that did not come to its end
    │   └── PeerError              an engine that is compared with cannot train this network
    ├── ProgramError               a program refused its inputs or failed while it ran
    └── UpdateRejected             what a phone sent is not usable; costs that phone's update only

Anything else that escapes is a programming error and keeps its traceback.
"""

from collections.abc import Sequence


class PocketfedError(Exception):
    """Root of the tree; never raised itself."""


class UserError(PocketfedError):
    """Something the user can mend. The message is one sentence with the offending value and the way out."""

    exit_code = 2


class ConfigError(UserError):
    """One or more mistakes in a configuration, all of them at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class CaptureError(UserError):
    """A photo, a sound or a folder of them cannot be used."""


class RunFolderError(UserError):
    """A run folder is missing, foreign, or written by another version."""


class MissingPackageError(UserError):
    """An optional package is needed and absent; the message holds the install line."""


class NoPhonesError(UserError):
    """The phones that a run was promised did not come, or none of them answers."""


class ExportError(UserError):
    """A network or an operator cannot be exported; the message names it and what to use instead."""


class BenchmarkError(UserError):
    """A measurement failed or took too long; the message ends with what its process said."""


class PeerError(UserError):
    """An engine that a benchmark compares with cannot train this network, or trains it wrongly; the message says why."""


class ProgramError(PocketfedError):
    """An exported program refused its inputs or failed while running."""


class UpdateRejected(PocketfedError):
    """An update from a phone is unusable: malformed, not finite, or out of bounds."""
