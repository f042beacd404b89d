"""The folder in which a phone keeps who it is and what it is at work on.

key           private key, mode 600; key.pub, its public half
bundles/      what the phone learns, as the server offered it, see `bundle_store`; bundle/, if it had to be made
captures/     what the store decoded
node.json     the server's address, this phone's node id there, and whether it is asking to go online
journal/      the message at work, see `journal`
memory/       what the phone remembers of earlier rounds, see `phone_memory`; there only if it has to
threads       on how many threads a step is fastest, see `mobile_client/threads.py`
log           what the command printed; `log.1` before that
lock          held by the one process that may use the folder
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pocketfed.core.errors import HomeError, PolicyError
from pocketfed.core.exclusive import exclusive


@dataclass(frozen=True)
class Home:
    """Names of the files.

    Attributes:
        folder: where they lie.
    """

    folder: Path

    @property
    def key(self) -> Path:
        """The private key."""
        return self.folder / "key"

    @property
    def node(self) -> Path:
        """What is remembered of the server, see `membership`."""
        return self.folder / "node.json"

    @property
    def journal(self) -> Path:
        """Folder of the journal."""
        return self.folder / "journal"

    @property
    def memory(self) -> Path:
        """Folder of the memory."""
        return self.folder / "memory"

    @property
    def threads(self) -> Path:
        """The number of threads that proved fastest."""
        return self.folder / "threads"

    @property
    def bundles(self) -> Path:
        """Folder of what was installed."""
        return self.folder / "bundles"

    @property
    def log(self) -> Path:
        """The log."""
        return self.folder / "log"


@contextmanager
def open_home(folder: Path) -> Iterator[Home]:
    """Take a home folder for this process, and make it if it is new; only its owner may look inside.

    Raises:
        PolicyError: it cannot be made, or another process has it.
    """
    taken = PolicyError(f"another phone runs in {folder}; give this one a folder of its own: --home")
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(exclusive(folder, taken))
        except OSError as error:
            raise PolicyError(f"the home folder {folder} cannot be used ({error.strerror})") from error
        yield Home(folder)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Say of a disk that is full, or a folder that is not ours, what to do.

    Args:
        place: what is written inside.

    Raises:
        HomeError: it could not be.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise HomeError(
            f"{place} cannot be written ({reason}); make room there, or let this user write there"
        ) from error
