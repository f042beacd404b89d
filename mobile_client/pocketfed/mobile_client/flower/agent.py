"""The agent: asks a server for work, has it done, and brings back the answer. It knows nothing of training."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pocketfed.core.errors import (
    CallRefused,
    Declined,
    HomeError,
    MalformedObject,
    PocketfedError,
    Unreachable,
)
from pocketfed.core.wire import DECLINED, FAILED
from pocketfed.mobile_client.flower.fleet import Fleet
from pocketfed.mobile_client.flower.journal import Entry, Journal, State
from pocketfed.mobile_client.flower.membership import UNAUTHENTICATED, Membership, keep_alive
from pocketfed.mobile_client.flower.objects import Records, object_id
from pocketfed.mobile_client.flower.task import Failure, Handle, Question, Task, build_answer, read_answer
from pocketfed.mobile_client.flower.transfer import Delivery, deliver, fetch
from pocketfed.mobile_client.jitter import jitter

MAX_TRIES = 3
"""How often work may end with the process before it is given up: it may be what ends the process."""

MAX_REFUSALS = 5
"""How often a server may fail over a message (HTTP 500 and more) before it is dropped."""

QUERY = "query"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How often a phone that has nothing to do asks for work.

    Attributes:
        first: seconds to wait after work.
        most: seconds that it grows to.
        growth: factor from one wait to the next.
    """

    first: float = 0.5
    most: float = 30.0
    growth: float = 1.5

    def wait(self, idle: int) -> float:
        """Seconds to wait after so many polls in vain, up to a fifth more or less than the rule says."""
        steps = min(idle, 100)  # a float does not hold the power of a week
        return min(self.most, self.first * self.growth**steps) * jitter(0.8, 1.2)


class Agent:
    """One phone at one server."""

    def __init__(
        self,
        fleet: Fleet,
        membership: Membership,
        journal: Journal,
        handle: Handle,
        pace: Pace | None = None,
        sleep: Callable[[float], None] = time.sleep,
        refusal: Callable[[str], str | None] = lambda kind: None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            fleet: the server.
            membership: this phone as its node.
            journal: what the phone is at work on.
            handle: does the work.
            pace: of polling.
            sleep: waits so many seconds.
            refusal: why a message of this type is declined before anything of it is fetched; None if it is not.
        """
        self.node: int | None = None
        self.answered = 0  # messages of which the server has the answer for certain, queries not counted
        self.trouble: PocketfedError | None = None  # why there is no going on at the moment
        self._at_work = False  # whether what the journal holds has been begun by this very process
        self._refusals = 0
        self._fleet, self._membership, self._journal = fleet, membership, journal
        self._handle, self._pace, self._sleep, self._refusal = handle, pace or Pace(), sleep, refusal

    def run(self, answers: int | None = None) -> None:
        """Work until so many messages are answered, or for ever. May be ended by an exception at any moment.

        A server that does not answer is waited for, and so is a disk that takes nothing.

        Raises:
            ServerError: the server refuses this phone for good.
        """
        stop = threading.Event()
        heart = threading.Thread(
            target=keep_alive, args=(self._beat, self._membership.interval, stop), daemon=True
        )
        heart.start()
        idle = 0
        try:
            while answers is None or self.answered < answers:
                try:
                    idle = 0 if self.step() else idle + 1
                    if self.trouble is not None:
                        log.info("going on; this is over: %s", self.trouble)
                    self.trouble = None
                    if not idle:
                        continue
                except (Unreachable, CallRefused, HomeError, MalformedObject) as error:
                    idle += 1
                    if str(error) != str(self.trouble):
                        log.warning("%s; trying again", error)
                        self.trouble = error
                self._sleep(self._pace.wait(idle - 1))
        finally:
            stop.set()
            heart.join(1.0)

    def step(self) -> bool:
        """Ask for work once and do it, or finish what the journal holds; whether there was any.

        Raises:
            Unreachable, CallRefused: not now; what has been begun is in the journal.
            HomeError: the disk does not take what has come or been done; it is in memory, and goes there first.
            MalformedObject: the server answers otherwise than agreed, and there was no message to drop for it.
            ServerError: the server refuses this phone for good.
        """
        if self.node is None:
            self.node = self._membership.join()
            log.info("online at %s as node %d", self._fleet.caller.server, self.node)
        try:
            entry = self._journal.load()
            if entry is not None and not self._at_work:
                log.info("going on with a message that is %s", entry.state)
            entry = entry or self._pull(self.node)
            worked = self._at_work = entry is not None
            while entry is not None:
                entry = self._advance(self.node, entry)
            self._end_work()
            return worked
        except MalformedObject as error:
            if not self._drop(str(error)):
                raise
            return True
        except CallRefused as refused:
            if refused.status == UNAUTHENTICATED:
                # The server has lost us, or we it: the next step joins anew. Work of a node that is no more is dropped.
                self.node = None
            elif self._at_work:
                self._refusals += 1
                if refused.status < 500 or self._refusals >= MAX_REFUSALS:
                    self._drop(str(refused))
            raise

    def _beat(self) -> None:
        if (node := self.node) is not None:
            self._membership.beat(node)

    def _pull(self, node: int) -> Entry | None:
        head = self._fleet.pull_messages(node).SerializeToString()
        try:
            question = Question.read(head)
        except MalformedObject as error:
            log.warning("ignoring a message: %s", error)
            return None
        return self._journal.save(Entry(State.PULLED, head)) if question else None

    def _advance(self, node: int, entry: Entry) -> Entry | None:
        """One step through the journal's states; None when there is nothing left to do."""
        if entry.state in (State.BUILT, State.ACCEPTED):
            self._push(node, entry)
            return None
        try:
            question = Question.read(entry.head)
        except MalformedObject:
            question = None
        if question is None:
            log.warning("the journal holds no message; it is set aside")
            self._journal.set_aside(entry)
            return None
        if reason := self._pointless(question.metadata.dst_node_id, node, question.expires):
            self._drop(reason)
            return None
        if entry.state is State.PULLED:
            return self._receive(node, question, entry)
        return self._work(node, question, entry)

    def _receive(self, node: int, question: Question, entry: Entry) -> Entry:
        metadata = question.metadata
        if reason := self._refusal(metadata.message_type):
            log.info("declined: %s", reason)
            self._fleet.confirm(node, metadata.run_id, metadata.message_id)
            return self._build(node, question, Failure(DECLINED, reason), 0.0)
        try:
            objects = tuple(fetch(self._fleet, node, question, self._sleep).values())
        except MalformedObject as error:
            return self._build(node, question, Failure(FAILED, str(error)), 0.0)
        log.info("asked to %s (%d bytes)", metadata.message_type[:40], sum(map(len, objects)))
        return self._journal.save(Entry(State.RECEIVED, entry.head, objects))

    def _work(self, node: int, question: Question, entry: Entry) -> Entry:
        self._fleet.confirm(node, question.metadata.run_id, question.metadata.message_id)
        began = time.monotonic()
        self._journal.tries = tries = self._journal.tries + 1
        try:
            content = self._outcome(question, entry, tries)
        except (KeyboardInterrupt, SystemExit):
            with suppress(HomeError):
                self._journal.tries = tries - 1  # ended on purpose, which says nothing against the work
            raise
        return self._build(node, question, content, time.monotonic() - began)

    def _outcome(self, question: Question, entry: Entry, tries: int) -> Records | Failure:
        if tries > MAX_TRIES:
            return Failure(FAILED, f"the phone's process ended {MAX_TRIES} times while it worked on this")
        until = self._fleet.caller.clock.local(question.deadline)
        try:
            records = question.records({object_id(content): content for content in entry.objects})
            return self._handle(Task(question.metadata.message_type, records, until))
        except Declined as error:
            log.info("declined: %s", error)
            return Failure(DECLINED, str(error))
        except PocketfedError as error:
            log.warning("failed: %s", error)
            return Failure(FAILED, str(error))
        except Exception as error:  # a mistake in the app must cost this answer, not the phone
            log.exception("failed")
            return Failure(FAILED, f"{type(error).__name__}: {error}")

    def _build(self, node: int, question: Question, content: Records | Failure, seconds: float) -> Entry:
        answer = build_answer(question, node, self._fleet.caller.clock.now(), seconds, content)
        return self._journal.save(Entry(State.BUILT, answer.request, answer.objects))

    def _push(self, node: int, entry: Entry) -> None:
        reply = read_answer(entry.head)
        if reason := self._pointless(reply.src_node_id, node, reply.created_at + reply.ttl):
            self._drop(reason)
            return
        outcome = deliver(self._fleet, self._journal, entry)
        self._journal.clear()
        kind = reply.message_type[:40]
        if outcome is Delivery.REJECTED:
            log.warning("the server did not want the answer to %s: too late, or answered already", kind)
            return
        if outcome is Delivery.UNCERTAIN:
            log.warning(
                "the server wants no more of the answer to %s: it has it all, or has given it up", kind
            )
            return
        log.info("answered %s (%d bytes)", kind, sum(map(len, entry.objects)))
        self.answered += kind.partition(".")[0] != QUERY

    def _pointless(self, meant: int, node: int, expires: float) -> str | None:
        """Why a message need not be worked on any more."""
        if meant != node:
            return "it was for a node that this phone is no more"
        if expires <= self._fleet.caller.clock.now():
            return "it has expired"
        return None

    def _drop(self, reason: str) -> bool:
        """Give up the message at work; whether there was one."""
        dropped = self._journal.load() is not None
        if dropped:
            log.warning("dropping a message: %s", reason)
        self._journal.clear()
        self._end_work()
        return dropped

    def _end_work(self) -> None:
        self._at_work, self._refusals = False, 0
