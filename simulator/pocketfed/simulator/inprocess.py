"""The default engine: Flower's `Grid` over worker processes on this machine, without a SuperLink.

Messages, strategy and phones are Flower's and ours as in deployment; only the transport is missing. Phones take no
memory while they do nothing, and at most a few answers exist at any time, so memory does not grow with the fleet.
"""

import itertools
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Self

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from pocketfed.server.flower_private import Run, act_as_server, empty_run, with_id

FIRST_NODE = 2
"""Flower's own node has id 1."""

PHONE_FAILED = 2
NO_ANSWER = 3

_app: ClientApp | None = None


class InProcessGrid(Grid):
    """Phones spread over worker processes. Use it as a context manager.

    Replies come in the order of the messages, lazily: the next messages are sent while answers are taken.
    """

    def __init__(self, build_app: Callable[[], ClientApp], phones: int, workers: int) -> None:
        """Start workers.

        Args:
            build_app: makes the app, in each worker; must be importable there.
            phones: node `FIRST_NODE + i` is the phone with `partition-id` i.
            workers: processes, each with one compute thread.
        """
        self._build_app, self._phones, self._workers = build_app, phones, workers
        self._run = empty_run(run_id=1)
        self._ids = itertools.count()
        self._replies: dict[str, Message] = {}
        self._pool = self._new_pool()
        act_as_server(self._run.run_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

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

    def get_node_ids(self) -> Iterable[int]:
        """All phones are always there."""
        return range(FIRST_NODE, FIRST_NODE + self._phones)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the messages and keep their answers for `pull_messages`."""
        replies = list(self.send_and_receive(messages))
        self._replies.update({reply.metadata.reply_to_message_id: reply for reply in replies})
        return [reply.metadata.reply_to_message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers to these messages, once."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Answers in the order of the messages; an error message stands for a phone that failed or was too slow.

        At most four messages per worker are under way at any time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        source = iter(messages)
        under_way: deque[tuple[Message, Future[Message]]] = deque()
        while True:
            for message in itertools.islice(source, 4 * self._workers - len(under_way)):
                under_way.append((message, self._submit(message)))
            if not under_way:
                return
            yield self._answer(*under_way.popleft(), deadline, under_way)

    def _submit(self, message: Message) -> Future[Message]:
        with_id(message, f"message-{next(self._ids)}")
        return self._pool.submit(_work, message, message.metadata.dst_node_id - FIRST_NODE)

    def _answer(
        self,
        message: Message,
        future: Future[Message],
        deadline: float | None,
        under_way: deque[tuple[Message, Future[Message]]],
    ) -> Message:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return future.result(left)
        except TimeoutError:
            future.cancel()
            return Message(Error(NO_ANSWER, "no answer in time"), reply_to=message)
        except BrokenProcessPool:
            return self._survive(message, under_way)

    def _survive(self, message: Message, under_way: deque[tuple[Message, Future[Message]]]) -> Message:
        """A worker died, and nobody can say of which phone: ask this one again, alone, then the others."""
        self._restart()
        try:
            answer = self._submit(message).result()
        except BrokenProcessPool:
            answer = Message(Error(PHONE_FAILED, "the phone's process died"), reply_to=message)
            self._restart()
        for i, (other, _) in enumerate(under_way):
            under_way[i] = (other, self._submit(other))
        return answer

    def _restart(self) -> None:
        self._stop()
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        # Workers fork from a clean process that has imported what they need, and share its memory.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pocketfed.simulator.client_app"])
        return ProcessPoolExecutor(self._workers, context, initializer=_start, initargs=(self._build_app,))

    def _stop(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _start(build_app: Callable[[], ClientApp]) -> None:
    global _app
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _app = build_app()


def _work(message: Message, partition: int) -> Message:
    assert _app is not None
    context = Context(
        run_id=message.metadata.run_id,
        node_id=message.metadata.dst_node_id,
        node_config={"partition-id": partition},
        state=RecordDict(),
        run_config={},
    )
    try:
        return _app(message, context)
    except Exception as error:  # noqa: BLE001 - a phone is outside code: whatever it raises costs its own update only
        return Message(Error(PHONE_FAILED, f"{type(error).__name__}: {error}"), reply_to=message)
