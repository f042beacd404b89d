"""Folds of edge servers, as Flower messages that a parent takes."""

from collections.abc import Sequence
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from pocketfed.core.part import Part
from pocketfed.core.plan import Update
from pocketfed.core.wire import FOLD, part_items
from pocketfed.server.aggregators import Aggregator, Broadcast
from pocketfed.server.flower_private import act_as_server
from pocketfed.server.fold import Fold
from pocketfed.server.guard import Guard
from pocketfed.server.history import History
from pocketfed.server.messages import pack_update
from pocketfed.server.staleness import Staleness


def message(content: RecordDict) -> Message:
    """An answer with this content."""
    act_as_server(1)
    return Message(content, reply_to=Message(RecordDict(), 7, "train"))


def brings(part: Part, **changes: Any) -> Message:
    """An edge's answer; `changes` replace items of its record, None removes one."""
    items: dict[str, Any] = {**part_items(part), **changes}
    record = ConfigRecord({name: value for name, value in items.items() if value is not None})
    return message(RecordDict({FOLD: record}))


def fold_of(rule: Aggregator[Any], begun: Broadcast) -> Fold:
    """An empty fold, in which nothing that is late counts."""
    return Fold(rule, Guard(), begun, History(1).begin(begun), Staleness())


def folded(
    rule: Aggregator[Any], begun: Broadcast, updates: Sequence[Update], below: Sequence[Part] = ()
) -> Fold:
    """A fold of updates, and of the folds of edges."""
    fold = fold_of(rule, begun)
    for number, update in enumerate(updates):
        fold.take(number, message(pack_update(update)), begun.round)
    for number, part in enumerate(below):
        fold.take(1000 + number, brings(part), begun.round, edge=True)
    return fold
