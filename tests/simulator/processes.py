"""The command in processes of its own, which a test can kill."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Process:
    """The command, again and again the same one."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._command = [sys.executable, "-c", "from pocketfed.simulator.cli import main; main()", *arguments]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        """As the kernel does when memory runs out: without a word."""
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def end(self) -> int:
        """Wait for the last round; the exit code."""
        assert self._process is not None
        return self._process.wait(60)

    def clear(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
