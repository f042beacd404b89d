"""A whole round over the wire: the server's own packing, a phone that trains, and a process that really dies."""

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from flwr.app import Message

from pocketfed.core.hyper import Hyper
from pocketfed.core.learning_step import methods
from pocketfed.core.learning_task import LearningTask, initial_weights
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Instruction, PhoneStatus, Plan
from pocketfed.core.program_spec import program_spec
from pocketfed.core.wire import weights_to_bytes
from pocketfed.mobile_client.flower.work import Work
from pocketfed.mobile_client.gate import Gate
from pocketfed.mobile_client.phone import CaptureSource, Phone, train
from pocketfed.mobile_client.phone_memory import PhoneMemory
from pocketfed.mobile_client.runtime import TorchRuntime
from pocketfed.mobile_client.taking_part import Own
from pocketfed.server.messages import ask_status, pack_instruction, unpack_status, unpack_update
from tests.mobile_client.flower.conftest import Start
from tests.mobile_client.flower.superlink import SuperLink


class Album:
    """A store that does not change."""

    problem: str | None = None

    def __init__(self, photos: CaptureSource) -> None:
        self._photos = photos

    def scan(self, between: Callable[[], None], /) -> None: ...

    def snapshot(self) -> Mapping[Modality, CaptureSource]:
        return {Modality.PHOTO: self._photos}


def test_an_update_over_the_wire_is_the_update_that_the_phone_computes(
    superlink: SuperLink, start: Start, small_task: LearningTask, tmp_path: Path
) -> None:
    spec, runtime = program_spec(small_task, mixed=False), TorchRuntime(methods(small_task, mixed=False))
    photos = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    weights = initial_weights(small_task, 0)
    plan = Plan(2, 5, dict.fromkeys(Modality, 1), mixed=False, hyper=Hyper())
    expected = train(
        Phone(9, {Modality.PHOTO: photos}, spec, runtime), Instruction(plan, weights, spec.layout)
    )

    own = Own(small_task.layout, lambda: weights, PhoneMemory(tmp_path / "memory"))
    phone = start(superlink.url, Work(9, spec, runtime, Album(photos), Gate(None), "1.0", own=own))
    phone.agent.step()
    node = phone.agent.node or 0
    (query,) = superlink.grid.push_messages([ask_status(node, 60.0)])
    assert phone.agent.step()
    answer = superlink.answer(query)
    assert answer is not None
    status = unpack_status(answer)
    assert status is not None
    assert status == PhoneStatus(
        9, {Modality.PHOTO: 12}, status.free_memory, app_version="1.0", layout=spec.layout
    )

    content = pack_instruction(plan, weights_to_bytes(weights), spec.layout)
    (asked,) = superlink.grid.push_messages(
        [Message(content, dst_node_id=node, message_type="train", ttl=60.0)]
    )
    phone.wire.calls.clear()
    assert phone.agent.step()
    assert len(phone.wire.calls) == 8
    answer = superlink.answer(asked)
    assert answer is not None
    update = unpack_update(answer)
    assert np.array_equal(update.weights, expected.weights)
    assert (update.examples, update.seen, update.loss) == (expected.examples, expected.seen, expected.loss)
    assert not (tmp_path / "memory").exists()  # there is nothing to remember
    assert (update.round, update.layout) == (2, spec.layout)


PROCESS = """
import os, signal, sys
from pathlib import Path
from pocketfed.mobile_client.flower.agent import Agent
from pocketfed.mobile_client.flower.calls import Caller
from pocketfed.mobile_client.flower.fleet import Fleet
from pocketfed.mobile_client.flower.journal import Journal
from pocketfed.mobile_client.flower.key import load_or_create_key
from pocketfed.mobile_client.flower.membership import Membership

server, folder, fatal = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "fatal"

def handle(task):
    if fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"update": dict(task.records["instruction"])}

with Caller(server, load_or_create_key(folder / "key")) as caller:
    fleet = Fleet(caller)
    Agent(fleet, Membership(fleet, folder / "node.json", 30.0), Journal(folder / "journal"), handle).run(1)
    assert "flwr" not in sys.modules and "torch" not in sys.modules
"""


def test_a_process_that_is_killed_at_work_is_followed_by_one_that_answers(
    superlink: SuperLink, start: Start, tmp_path: Path
) -> None:
    phone = start(superlink.url)
    phone.agent.step()
    question = superlink.ask(phone.agent.node or 0, {"weights": b"x" * 1000})

    def process(kind: str) -> int:
        return subprocess.run(
            [sys.executable, "-c", PROCESS, superlink.url, tmp_path / "home", kind], check=False
        ).returncode

    assert process("fatal") == -signal.SIGKILL
    assert process("mild") == 0
    answer = superlink.answer(question)
    assert answer is not None
    assert dict(answer.content["update"]) == {"weights": b"x" * 1000}
