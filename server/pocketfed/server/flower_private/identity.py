"""Who sends, which run it belongs to and what a message is called: what a SuperLink would fill in."""

from contextlib import AbstractContextManager

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["Run", "act_as_server", "empty_run", "of_run", "reusing_object_ids", "with_id", "without_content"]


def act_as_server(run_id: int, task_id: int = 1) -> None:
    """Let this process make instruction messages: Flower reads their sender from a process-wide identity."""
    TaskIdentity.run_id = run_id
    TaskIdentity.task_id = task_id
    TaskIdentity.node_id = SUPERLINK_NODE_ID


def empty_run(run_id: int) -> Run:
    """Run information with nothing in it but the id."""
    return Run.create_empty(run_id=run_id)


def with_id(message: Message, message_id: str) -> Message:
    """Give a message its id, which a SuperLink would do; replies refer to it."""
    message.metadata.__dict__["_message_id"] = message_id
    return message


def without_content(message: Message) -> Message:
    """The envelope of a message, which can still be replied to; its weights are free to go."""
    return remove_content_from_message(message)


def reusing_object_ids() -> AbstractContextManager[None]:
    """While this lasts, content that many messages share is serialised and hashed once."""
    return no_object_id_recompute()


def of_run(message: Message, run: Run) -> None:
    """A message belongs to the run of the fleet that posts it: this process may serve another fleet besides."""
    message.metadata.__dict__["_run_id"] = run.run_id
    message.metadata.__dict__["_src_task_id"] = run.primary_task_id
