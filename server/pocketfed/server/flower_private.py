"""All that pocketfed uses of Flower beyond its public interface; `flwr` is pinned exactly for this file's sake.

tests/server/test_flower_private.py says what has changed when a new Flower breaks it.
"""

from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["Run", "act_as_server", "empty_run", "with_id"]


def act_as_server(run_id: int) -> None:
    """Let this process make instruction messages: Flower reads their sender from a process-wide identity."""
    TaskIdentity.run_id = run_id
    TaskIdentity.task_id = 1
    TaskIdentity.node_id = SUPERLINK_NODE_ID


def empty_run(run_id: int) -> Run:
    """Run information with nothing in it but the id."""
    return Run.create_empty(run_id=run_id)


def with_id(message: Message, message_id: str) -> Message:
    """Give a message its id, which a SuperLink would do; replies refer to it."""
    message.metadata.__dict__["_message_id"] = message_id
    return message
