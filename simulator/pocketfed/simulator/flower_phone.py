"""The phone as a stock Flower `ClientApp`: what `pocketfed phone` does, in a SuperNode that is told where things are.

configs/flower-app names it; docs/flower-app.md has the commands. Flower starts a process for every message, so this
imports no more than a phone needs.
"""

import logging
from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from pocketfed.core.bundle import read_bundle
from pocketfed.core.errors import Declined, PocketfedError
from pocketfed.core.wire import DECLINED
from pocketfed.mobile_client.capture_store import CaptureStore
from pocketfed.mobile_client.flower.home import Home
from pocketfed.mobile_client.flower.task import Task
from pocketfed.mobile_client.flower.work import Work
from pocketfed.mobile_client.gate import Gate
from pocketfed.mobile_client.runtime import ExecutorchRuntime
from pocketfed.mobile_client.taking_part import Own
from pocketfed.mobile_client.threads import remembered_threads
from pocketfed.mobile_client.usable import starting
from pocketfed.server.messages import failure
from pocketfed.simulator.commands.phone import app_version
from pocketfed.simulator.flower_settings import Settings

WHERE = 'flower-supernode --node-config \'bundle="/…" captures="/…" home="/…" number=1\''

client_app = ClientApp()

log = logging.getLogger(__name__)


@client_app.query()
def who(message: Message, context: Context) -> Message:
    """Say who this phone is."""
    return answer(message, context.node_config)


@client_app.train()
def learn(message: Message, context: Context) -> Message:
    """Train as asked."""
    return answer(message, context.node_config)


def answer(message: Message, node_config: Mapping[str, Any]) -> Message:
    """What this phone answers. Why it cannot is told to the server, and in the SuperNode's own log."""
    metadata = message.metadata
    records: dict[str, Any] = {
        name: dict(record) for name, record in message.content.items() if isinstance(record, ConfigRecord)
    }
    task = Task(metadata.message_type, records, metadata.created_at + metadata.ttl)
    try:
        done: Mapping[str, Any] = open_phone(node_config)(task)
    except Declined as error:
        return failure(message, str(error), DECLINED)
    except PocketfedError as error:
        log.error("%s", error)
        return failure(message, str(error))
    return Message(
        RecordDict({name: ConfigRecord(dict(items)) for name, items in done.items()}), reply_to=message
    )


def open_phone(node_config: Mapping[str, Any]) -> Work:
    """The phone of a SuperNode.

    Raises:
        UserError: a setting is missing or wrong, or the bundle or the home cannot be used.
    """
    settings = Settings(node_config, WHERE)
    bundle, captures, home = (settings.path(key) for key in ("bundle", "captures", "home"))
    policy, number = settings.optional_path("policy"), settings.number("number")
    threads = settings.number("threads") if settings.has("threads") else None
    settings.check()
    gate = Gate(policy)
    parts = read_bundle(bundle)
    store = CaptureStore(captures, parts.spec, home)
    with starting(parts):
        threads = threads or remembered_threads(Home(home).threads, parts.program_file, parts.id, parts.spec)
        runtime = ExecutorchRuntime(parts.program, threads)
    own = Own.of(parts, Home(home).memory)
    return Work(
        number, parts.spec, runtime, store, gate, app_version(), gate.charging, own=own, bundle=parts.id
    )
