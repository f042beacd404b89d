"""The phone as a Flower `ClientApp`; every engine runs this same one."""

import functools
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from pocketfed.core.errors import PocketfedError
from pocketfed.core.learning_task import LearningTask, initial_weights
from pocketfed.core.plan import PhoneStatus
from pocketfed.mobile_client.phone import Phone
from pocketfed.mobile_client.phone_memory import PhoneMemory
from pocketfed.mobile_client.taking_part import Own, take_part
from pocketfed.server.messages import failure, introduce, pack_update, unpack_instruction
from pocketfed.simulator.fleet import load_holdings
from pocketfed.simulator.program import load_runtime, load_task


@functools.lru_cache(maxsize=1)
def load_phones(folder: Path) -> list[Phone]:
    """The fleet of a folder; captures are mapped from disk, and one runtime serves all phones of this process."""
    torch.set_num_threads(
        1
    )  # processes must not fight for cores, and sums must not depend on how many there are
    spec, runtime = load_runtime(folder)
    return [Phone(number, captures, spec, runtime) for number, captures in enumerate(load_holdings(folder))]


def build_client_app(folder: Path, memories: Path) -> ClientApp:
    """An app that acts as whichever phone the engine's node configuration names (`partition-id`).

    Args:
        folder: of the fleet and the program.
        memories: folder in which phones keep what they remember, each in one of its own, named by its number.
    """
    app = ClientApp()

    def phone(context: Context) -> Phone:
        return load_phones(folder)[int(context.node_config["partition-id"])]

    @app.query()
    def who(message: Message, context: Context) -> Message:
        return introduce(message, status_of(phone(context)))

    @app.train()
    def learn(message: Message, context: Context) -> Message:
        found = phone(context)
        return answer(message, found, own_of(folder, memories / f"{found.number:06d}"))

    return app


def own_of(folder: Path, memory: Path) -> Own:
    """What an emulated phone has of its own: the weights that its run began with, and its memory."""
    task, seed = _task_and_seed(folder)
    return Own(task.layout, lambda: initial_weights(task, seed), PhoneMemory(memory))


@functools.lru_cache(maxsize=1)
def _task_and_seed(folder: Path) -> tuple[LearningTask, int]:
    config, task = load_task(folder)
    return task, config.seed


def status_of(phone: Phone) -> PhoneStatus:
    """What an emulated phone says of itself."""
    counts = {modality: len(captures) for modality, captures in phone.captures.items()}
    return PhoneStatus(phone.number, counts, charging=True, layout=phone.spec.layout)


def answer(message: Message, phone: Phone, own: Own) -> Message:
    """The update that an instruction asks for, or why there is none."""
    try:
        update = take_part(phone, own, unpack_instruction(message))
    except PocketfedError as error:
        return failure(message, str(error))
    return Message(pack_update(update), reply_to=message)
