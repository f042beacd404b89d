"""The default engine: Flower's `Grid` over worker processes on this machine, without a SuperLink.

Messages, strategy and phones are Flower's and ours as in deployment; only the transport is missing. Phones
take no memory while they do nothing, and at most a few answers exist at any time, so memory does not grow
with the fleet.
"""

import itertools
import multiprocessing
import pickle
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from pocketfed.server.flower_private import act_as_server, empty_run, with_id
from pocketfed.server.run_grid import RunGrid

FIRST_NODE = 2
"""Flower's own node has id 1."""

PHONE_FAILED = 2
NO_ANSWER = 3

MOMENT = 0.05
"""Seconds that `pull_messages` waits at most."""

GRACE = 2.0
"""Seconds that a worker has to end when asked to."""


class InProcessGrid(RunGrid):
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
        super().__init__(empty_run(run_id=1))
        self._phones = phones
        self._ids = itertools.count()
        self._pushed: dict[str, Future[Message]] = {}
        self._workers = [_Worker(build_app) for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        # A thread per worker keeps it busy while the server folds; a message in their queue is not sent yet.
        self._threads = ThreadPoolExecutor(workers)
        act_as_server(self._run.run_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def get_node_ids(self) -> Iterable[int]:
        """All phones are always there."""
        return range(FIRST_NODE, FIRST_NODE + self._phones)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send, without waiting for instructions to be followed; questions are answered when this returns."""
        sent = [with_id(message, f"message-{next(self._ids)}") for message in messages]
        questions = []
        for message in sent:
            is_question = message.metadata.message_type == MessageType.QUERY
            deadline = None if is_question else time.monotonic() + message.metadata.ttl
            reply = self._threads.submit(self._ask, message, deadline)
            self._pushed[message.metadata.message_id] = reply
            if is_question:
                questions.append(reply)
        wait(questions)
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers to these messages that are here, each once; waits for the first of them, but not for long."""
        under_way = {key: self._pushed[key] for key in message_ids if key in self._pushed}
        wait(under_way.values(), MOMENT, FIRST_COMPLETED)
        return [self._pushed.pop(key).result() for key, reply in under_way.items() if reply.done()]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Answers in the order of the messages; an error message stands for a phone that failed or was slow.

        At most four messages per worker are under way at any time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        source = iter(messages)
        under_way: deque[Future[Message]] = deque()
        while True:
            for message in itertools.islice(source, 4 * len(self._workers) - len(under_way)):
                with_id(message, f"message-{next(self._ids)}")
                under_way.append(self._threads.submit(self._ask, message, deadline))
            if not under_way:
                return
            yield under_way.popleft().result()

    def _ask(self, message: Message, deadline: float | None) -> Message:
        worker = self._idle.get()  # there is one: as many threads as workers
        try:
            return worker.ask(message, deadline)
        finally:
            self._idle.put(worker)

    def _stop(self) -> None:
        """End the workers whatever they do; that ends the threads that wait for them."""
        for worker in self._workers:
            worker.dismiss()
        for worker in self._workers:
            worker.join()
        self._threads.shutdown(cancel_futures=True)


class _Worker:
    """A process that runs one phone at a time; a new process takes its place when it dies or hangs.

    Each has a pipe of its own, so that it is known which phone a process was running when it died or hung,
    and the other processes need not be touched. (`ProcessPoolExecutor` shares its pipes: there one death ends
    them all, and a hung process cannot be told from the others.)
    """

    def __init__(self, build_app: Callable[[], ClientApp]) -> None:
        self._build_app = build_app
        self._lock = threading.Lock()  # on replacing the process and dismissing it
        self._dismissed = False
        self._start()

    def ask(self, message: Message, deadline: float | None) -> Message:
        """The phone's answer, or an error message that stands for it; no later than the deadline."""
        for _ in range(2):  # a process may also be killed from outside, or for memory that others take
            try:
                if not self._is_ready(deadline):
                    return _no_answer(message)
                self._pipe.send_bytes(pickle.dumps(message))
                if not self._pipe.poll(_left(deadline)):
                    self._replace()
                    return _no_answer(message)
                answer = self._pipe.recv_bytes()
            except (EOFError, OSError):
                self._replace()
            else:
                return _read(answer, message)
        return Message(Error(PHONE_FAILED, "the phone's process died"), reply_to=message)

    def dismiss(self) -> None:
        """Ask the process to end, for good."""
        with self._lock:
            self._dismissed = True
            self._process.terminate()

    def join(self) -> None:
        """Wait for a dismissed process for `GRACE` at most, then kill it."""
        self._process.join(GRACE)
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        # Workers fork from a clean process that has imported what they need, and share its memory.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pocketfed.simulator.client_app"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._build_app))
        self._process.start()
        theirs.close()  # the process has its own copy; when that one closes, this end must notice
        self._ready = False

    def _is_ready(self, deadline: float | None) -> bool:
        """Wait until the process reads its pipe: before, sending would block, deadline or not."""
        left = _left(deadline)
        if not self._ready and self._pipe.poll(left):
            self._pipe.recv_bytes()
            self._ready = True
        return self._ready and left != 0

    def _replace(self) -> None:
        with self._lock:
            if self._dismissed:
                return
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._start()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _no_answer(message: Message) -> Message:
    return Message(Error(NO_ANSWER, "no answer in time"), reply_to=message)


def _failed(message: Message, error: BaseException) -> Message:
    return Message(Error(PHONE_FAILED, f"{type(error).__name__}: {error}"), reply_to=message)


def _read(answer: bytes, message: Message) -> Message:
    try:
        reply = pickle.loads(answer)
        if not isinstance(reply, Message):
            raise TypeError(f"the answer is no message but {type(reply).__name__}")
        return reply
    except BaseException as error:  # noqa: BLE001 - reading runs what the phone wrote; it may raise anything
        return _failed(message, error)


def _serve(pipe: Connection, build_app: Callable[[], ClientApp]) -> None:
    """A worker process: answers messages until the parent closes its end, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    app = build_app()
    try:
        pipe.send_bytes(b"ready")
        while True:
            pipe.send_bytes(_work(app, pickle.loads(pipe.recv_bytes())))
    except (EOFError, OSError):
        return


def _work(app: ClientApp, message: Message) -> bytes:
    """The phone's answer, pickled here, where a failure to do so is the phone's own."""
    context = Context(
        run_id=message.metadata.run_id,
        node_id=message.metadata.dst_node_id,
        node_config={"partition-id": message.metadata.dst_node_id - FIRST_NODE},
        state=RecordDict(),
        run_config={},
    )
    try:
        return pickle.dumps(app(message, context))
    except BaseException as error:  # noqa: BLE001 - SystemExit too costs that phone's update only
        return pickle.dumps(_failed(message, error))
