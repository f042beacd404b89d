"""Every error that pocketfed raises on purpose.

    PocketfedError
    ├── UserError                  something the user can mend; the command line prints it and exits with code 2
    │   ├── ConfigError            one or more values of a configuration, all reported at once
    │   │   └── PluginError        a plug-in that it names is missing or fails to import
    │   ├── CaptureError           a photo, a sound, or a folder of them
    │   ├── RunFolderError         a run folder that is missing, foreign, or of another version
    │   ├── BundleError            a bundle that is missing, damaged, or of another version
    │   │   ├── SignatureError     a bundle that was not signed, or changed, or signed by another key
    │   │   └── OutdatedError      a bundle that is no later release than the one that is installed
    │   ├── HeadError              a classifier's head that is damaged, or belongs to another encoder
    │   ├── MigrationError         weights of one network cannot begin another
    │   ├── KeyFileError           a key or a certificate that is missing, damaged, or readable by others
    │   ├── ServerError            a server that cannot be started, reached, or refuses this phone for good
    │   ├── PolicyError            a file with a phone's policy or state that cannot be used
    │   ├── HomeError              a phone's home folder cannot be written; a phone that runs waits until it can
    │   ├── MissingPackageError    an optional package that this command needs
    │   ├── NoPhonesError          the phones that a run was promised did not come
    │   ├── UnusableModelError     a rule made a model of updates that is not finite, or too far away
    │   ├── ExportError            a network that cannot be turned into a program
    │   ├── BenchmarkError         a measurement that did not come to its end
    │   └── PeerError              an engine that is compared with cannot train this network
    ├── ProgramError               a program refused its inputs or failed while it ran
    │   └── TooFewCaptures         a phone holds nothing that a round could train on
    ├── Unreachable                a server does not answer, or not yet; trying again later may help
    ├── CallRefused                a server answered a call with an error
    ├── MalformedObject            bytes from outside are not the object that they should be
    ├── Declined                   the phone's policy does not allow training now; an honest answer
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


class PluginError(ConfigError):
    """One or more plug-ins are missing or fail to import, all of them at once."""


class CaptureError(UserError):
    """A photo, a sound or a folder of them cannot be used."""


class RunFolderError(UserError):
    """A run folder is missing, foreign, or written by another version."""


class BundleError(UserError):
    """A bundle is missing, damaged, or of another version."""


class SignatureError(BundleError):
    """A bundle was not signed, or changed after that, or signed by a key that is not trusted."""


class OutdatedError(BundleError):
    """A bundle is no later release than the one that is installed."""


class HeadError(UserError):
    """A classifier's head is missing, damaged, or of another encoder than the one that it is to sit on."""


class MigrationError(UserError):
    """Weights cannot be carried over into another layout, because the backbones differ; the message says where."""


class KeyFileError(UserError):
    """A key or certificate file is missing, damaged, of the wrong kind, or readable by others."""


class ServerError(UserError):
    """A server cannot be started or reached, or refuses this phone for good."""


class PolicyError(UserError):
    """A file with a phone's policy or state cannot be used; every mistake in it at once."""


class HomeError(UserError):
    """A phone cannot write to its home folder, such as on a full disk; one that runs already waits until it can."""


class MissingPackageError(UserError):
    """An optional package is needed and absent; the message holds the install line."""


class NoPhonesError(UserError):
    """The phones that a run was promised did not come, or none of them answers."""


class UnusableModelError(UserError):
    """A rule made a model of updates that is not finite, or far from anything that they may be; the message says how far."""


class ExportError(UserError):
    """A network or an operator cannot be exported; the message names it and what to use instead."""


class BenchmarkError(UserError):
    """A measurement failed or took too long; the message ends with what its process said."""


class PeerError(UserError):
    """An engine that a benchmark compares with cannot train this network, or trains it wrongly; the message says why."""


class ProgramError(PocketfedError):
    """An exported program refused its inputs or failed while running."""


class TooFewCaptures(ProgramError):
    """A phone holds too few captures to train on."""


class Unreachable(PocketfedError):
    """A server does not answer, or cannot take this phone yet; trying again later may help."""


class CallRefused(PocketfedError):
    """A server answered a call with an error.

    Attributes:
        status: of HTTP.
        code: of the API; 0 if the answer had none.
    """

    def __init__(self, call: str, status: int, code: int, detail: str) -> None:
        self.status, self.code = status, code
        super().__init__(f"the server refused {call}: {detail} (HTTP {status}, code {code})")


class MalformedObject(PocketfedError):
    """Bytes from outside are not the object that they should be: damaged, of another kind, or out of bounds."""


class Declined(PocketfedError):
    """The phone's policy does not allow training now; the message says which condition."""


class UpdateRejected(PocketfedError):
    """An update from a phone is unusable: malformed, not finite, or out of bounds."""
