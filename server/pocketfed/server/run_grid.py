"""What every grid of ours has in common: the run that it belongs to, and how its messages are made."""

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from pocketfed.server.flower_private import Run


class RunGrid(Grid):
    """Flower's `Grid` without the ways of its messages, which `push_messages` and its like are to say."""

    def __init__(self, run: Run) -> None:
        """Belong to a run."""
        self._run = run

    def set_run(self, run: Run) -> None:
        """See Flower's `Grid`."""
        self._run = run

    @property
    def run(self) -> Run:
        """See Flower's `Grid`."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """See Flower's `Grid`."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)
