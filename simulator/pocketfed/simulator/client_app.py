"""The phone as a Flower `ClientApp`; every engine runs this same one."""

import functools
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message
from flwr.clientapp import ClientApp

from pocketfed.core.errors import PocketfedError
from pocketfed.mobile_client.phone import Phone, train
from pocketfed.server.messages import ARRAYS, CONFIG, pack_update, unpack_plan, unpack_weights
from pocketfed.server.roster import introduce
from pocketfed.simulator.fleet import load_holdings
from pocketfed.simulator.program import load_runtime

TRAINING_FAILED = 2
"""Flower's code for an error in a ClientApp."""


@functools.lru_cache(maxsize=1)
def load_phones(folder: Path) -> list[Phone]:
    """The fleet of a folder; captures are mapped from disk, and one runtime serves all phones of this process."""
    torch.set_num_threads(
        1
    )  # processes must not fight for cores, and sums must not depend on how many there are
    spec, runtime = load_runtime(folder)
    return [Phone(number, captures, spec, runtime) for number, captures in enumerate(load_holdings(folder))]


def build_client_app(folder: Path) -> ClientApp:
    """An app that acts as whichever phone the engine's node configuration names (`partition-id`)."""
    app = ClientApp()

    def phone(context: Context) -> Phone:
        return load_phones(folder)[int(context.node_config["partition-id"])]

    @app.query()
    def who(message: Message, context: Context) -> Message:
        return introduce(message, int(context.node_config["partition-id"]))

    @app.train()
    def learn(message: Message, context: Context) -> Message:
        arrays, config = message.content[ARRAYS], message.content[CONFIG]
        assert isinstance(arrays, ArrayRecord)
        assert isinstance(config, ConfigRecord)
        try:
            update = train(phone(context), unpack_weights(arrays), unpack_plan(config))
        except PocketfedError as error:
            return Message(Error(TRAINING_FAILED, str(error)), reply_to=message)
        return Message(pack_update(update), reply_to=message)

    return app
