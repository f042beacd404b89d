"""Who is there: Flower's nodes, and the number by which each phone calls itself."""

import time

from flwr.app import Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from pocketfed.core.errors import NoPhonesError

PHONE = "phone"
"""Metric in which a phone gives its number when it is asked who it is."""


def introduce(message: Message, number: int) -> Message:
    """A phone's answer to `call_roll`."""
    return Message(RecordDict({"metrics": MetricRecord({PHONE: number})}), reply_to=message)


def call_roll(grid: Grid, expected: int, patience: float = 600.0) -> dict[int, int]:
    """Wait until `expected` nodes are there, then ask each for its number.

    Node ids are drawn at random by some engines; numbers are not, so they decide sampling, seeds and order.

    Returns:
        {phone number: node id}, in rising order of the number. A phone that does not answer is left out.

    Raises:
        NoPhonesError: fewer nodes than expected within `patience` seconds, or none that answers.
    """
    deadline = time.monotonic() + patience
    while len(nodes := sorted(grid.get_node_ids())) < expected:
        if time.monotonic() > deadline:
            raise NoPhonesError(f"{len(nodes)} of {expected} phones came within {patience:.0f} seconds")
        time.sleep(0.05)
    questions = (Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY) for node in nodes)
    numbers = {}
    for reply in grid.send_and_receive(questions, timeout=patience):
        metrics = reply.content.get("metrics") if reply.has_content() else None
        if isinstance(metrics, MetricRecord) and isinstance(number := metrics.get(PHONE), int):
            numbers[number] = reply.metadata.src_node_id
    if not numbers:
        raise NoPhonesError(f"none of {len(nodes)} phones answered within {patience:.0f} seconds")
    return dict(sorted(numbers.items()))
