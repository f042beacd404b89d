"""A grid of phones that do as they are told, in this very process."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Error, Message, MessageType

from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.plan import PhoneStatus, Update
from pocketfed.server.flower_private import act_as_server, empty_run, with_id
from pocketfed.server.messages import introduce, pack_update, unpack_instruction
from pocketfed.server.run_grid import RunGrid

SIZE = 8
LAYOUT = Layout((Slice("backbone.w", (SIZE,), Role.BACKBONE, 0),))

Answer = Callable[[Message], Message | None]
"""What a phone does with an instruction; None is silence."""


def adds(amount: float, examples: int = 1) -> Answer:
    """A phone that adds something to every weight."""

    def answer(message: Message) -> Message:
        asked = unpack_instruction(message)
        update = Update(asked.weights + np.float32(amount), examples, {}, {}, asked.plan.round, asked.layout)
        return Message(pack_update(update), reply_to=message)

    return answer


def says(reason: str, code: int) -> Answer:
    """A phone that answers with an error."""
    return lambda message: Message(Error(code, reason), reply_to=message)


def silent(message: Message) -> None:
    """A phone that does not answer."""


@dataclass
class ScriptedGrid(RunGrid):
    """Phones by node id. `train` may be changed between rounds, `online` too.

    Attributes:
        train: what each phone does with an instruction.
        statuses: what each says of itself; a node without one answers with an error.
        online: nodes that are there; all, if None.
        late: replies that the next `send_and_receive` yields before its own.
        sent: every instruction, in order.
        questions: how many nodes were asked who they are.
        slowness: after how many looks a node's answer to a pushed instruction is there.
    """

    train: dict[int, Answer]
    statuses: Mapping[int, PhoneStatus] = field(default_factory=dict)
    online: set[int] | None = None
    late: list[Message] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)
    questions: int = 0
    slowness: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(empty_run(1))
        act_as_server(1)
        self._answers: dict[str, Message] = {}
        self._due: dict[str, int] = {}  # looks that are left, by message
        self._count = 0

    def get_node_ids(self) -> Iterable[int]:
        return set(self.train) if self.online is None else self.online

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            key, node = self._name(message), message.metadata.dst_node_id
            ids.append(key)
            if message.metadata.message_type == MessageType.TRAIN:
                self.sent.append(message)
                self._due[key] = self.slowness.get(node, 0)
                if (reply := self.train[node](message)) is not None:
                    self._answers[key] = reply
                continue
            self.questions += 1
            if node in self.statuses:
                self._answers[key] = introduce(message, self.statuses[node])
            else:
                self._answers[key] = Message(Error(2, "who am I?"), reply_to=message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = []
        for key in message_ids:
            self._due[key] = self._due.get(key, 0) - 1
            if self._due[key] < 0 and key in self._answers:
                found.append(self._answers.pop(key))
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        sent = list(messages)
        self.sent += sent
        yield from self.late
        self.late = []
        for message in sent:
            self._name(message)
            reply = self.train[message.metadata.dst_node_id](message)
            if reply is not None:
                yield reply

    def _name(self, message: Message) -> str:
        self._count += 1
        return with_id(message, f"message-{self._count}").metadata.message_id


def fleet(answers: Mapping[int, Answer]) -> ScriptedGrid:
    """Phone number n is node n + 100, with a status that fits."""
    statuses = {n + 100: PhoneStatus(n, layout=LAYOUT.digest) for n in answers}
    return ScriptedGrid({n + 100: answer for n, answer in answers.items()}, statuses)
