"""Instructions, updates and statuses as flat records: the same keys in every transport and every language.

A record maps names to numbers, strings and bytes. Weights are one byte string, as `formats` says: the cost of a round
follows the number of objects that it moves, not their bytes, and one record is one object. What is as it usually is
(all of the model travels, as float32, and nothing is blended) is not in a record.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.blend import Blend, BlendRule
from pocketfed.core.bundle_id import is_bundle_id
from pocketfed.core.formats import Format, Packed
from pocketfed.core.hyper import HYPER, Hyper
from pocketfed.core.modality import Modality
from pocketfed.core.part import MOST_BUNDLES, Part
from pocketfed.core.plan import PACKED, Instruction, PhoneStatus, Plan, Update
from pocketfed.core.role import Role
from pocketfed.core.travel import Travel

Value: TypeAlias = int | float | str | bytes
Items: TypeAlias = Mapping[str, Value]

INSTRUCTION, UPDATE, STATUS, FOLD = "instruction", "update", "status", "fold"
"""Name of the one record in a message of each kind."""

FLOAT64 = "float64"
"""Format of sums: little-endian IEEE 754 double precision."""

DECLINED = 100
"""Error code of an answer that is an honest no: the phone's policy does not allow training now."""

FAILED = 2
"""Error code of an answer that says why training failed; Flower's code for an exception in a ClientApp."""


ENVELOPE = 1 << 20
"""Bytes that a message may have besides its weights."""

LONGEST_TEXT = 200
"""Characters of a text in a status."""

MOST_KINDS = 16
"""Kinds of failures that a fold may name."""


def weights_to_bytes(weights: NDArray[np.float32]) -> bytes:
    """float32 [p] as 4 p bytes."""
    return weights.astype("<f4", copy=False).tobytes()


def weights_from_bytes(content: bytes) -> NDArray[np.float32]:
    """The inverse of `weights_to_bytes`; the array is read-only and shares memory with `content`.

    Raises:
        ValueError: the length is no multiple of four.
    """
    return np.frombuffer(content, dtype="<f4").astype(np.float32, copy=False)


def instruction_items(
    plan: Plan, weights: bytes, layout: str, travel: Travel | None = None
) -> dict[str, Value]:
    """An instruction as a record.

    Args:
        plan: of the round.
        weights: as `encode` makes them; made once for a whole cohort.
        layout: digest of the layout of what travels.
        travel: what travels, and how; everything as float32 if None.
    """
    travel = travel or Travel()
    epochs = {f"epochs-{modality}": count for modality, count in plan.epochs.items()}
    return {
        "round": plan.round,
        "run": plan.run,
        "seed": plan.seed,
        "mixed": int(plan.mixed),
        "layout": layout,
        **epochs,
        **asdict(plan.hyper),
        **_travel_items(travel),
        **_blend_items(plan.blend),
        "format": str(travel.down),
        "weights": weights,
    }


def _travel_items(travel: Travel) -> dict[str, Value]:
    items: dict[str, Value] = {}
    if travel.roles != tuple(Role):
        items["travels"] = ",".join(travel.roles)
    if travel.up is not Format.FLOAT32:
        items["update-format"] = str(travel.up)
    return items


def _blend_items(blend: Blend) -> dict[str, Value]:
    if blend.rule is BlendRule.NONE:
        return {}
    return {"blend": str(blend.rule), "blend-tau": blend.tau, "blend-threshold": blend.threshold}


def read_instruction(items: Mapping[str, Any]) -> Instruction:
    """The inverse of `instruction_items`.

    Raises:
        KeyError, TypeError, ValueError: it is not such a record.
    """
    hyper = Hyper(**{name: _number(items, name) for name in HYPER})
    epochs = {m: _integer(items, key) for m in Modality if (key := f"epochs-{m}") in items}
    plan = Plan(
        round=_integer(items, "round"),
        seed=_integer(items, "seed"),
        epochs=epochs,
        mixed=bool(_integer(items, "mixed")),
        hyper=hyper,
        blend=_blend(items),
        run=_text(items, "run"),
    )
    weights, packed = _weights(items)
    return Instruction(
        plan=plan,
        weights=weights.copy(),  # a step writes into what it is given
        layout=_text(items, "layout"),
        roles=_roles(items),
        wanted=Format(_text(items, "update-format")) if "update-format" in items else Format.FLOAT32,
        packed=packed,
    )


def _roles(items: Mapping[str, Any]) -> tuple[Role, ...]:
    if "travels" not in items:
        return tuple(Role)
    return tuple(Role(name) for name in _text(items, "travels").split(","))


def _blend(items: Mapping[str, Any]) -> Blend:
    if "blend" not in items:
        return Blend()
    rule = BlendRule(_text(items, "blend"))
    return Blend(rule, _number(items, "blend-tau"), _number(items, "blend-threshold"))


def update_items(update: Update) -> dict[str, Value]:
    """An update as a record."""
    loss = {f"loss-{modality}": value for modality, value in update.loss.items()}
    seen = {f"seen-{modality}": value for modality, value in update.seen.items()}
    values: dict[str, Value] = {"round": update.round, "layout": update.layout, "examples": update.examples}
    content = update.packed.content if update.packed else weights_to_bytes(update.weights)
    made_with = _bundle_items(update.bundle)
    return {**values, **seen, **loss, **made_with, "format": str(update.format), "weights": content}


def read_update(items: Mapping[str, Any]) -> Update:
    """The inverse of `update_items`.

    Raises:
        KeyError, TypeError, ValueError: it is not such a record.
    """
    loss = {m: _number(items, key) for m in Modality if (key := f"loss-{m}") in items}
    seen = {m: _integer(items, key) for m in Modality if (key := f"seen-{m}") in items}
    weights, packed = _weights(items)
    return Update(
        weights=weights,
        examples=_integer(items, "examples"),
        seen=seen,
        loss=loss,
        round=_integer(items, "round"),
        layout=_text(items, "layout"),
        packed=packed,
        bundle=_bundle(items),
    )


def status_items(status: PhoneStatus) -> dict[str, Value]:
    """A status as a record."""
    captures = {f"captures-{modality}": count for modality, count in status.captures.items()}
    edge: dict[str, Value] = {"edge": 1} if status.edge else {}  # phones need not know that there are edges
    return {
        "phone": status.number,
        **captures,
        **edge,
        **_bundle_items(status.bundle),
        "free-memory": status.free_memory,
        "charging": int(status.charging),
        "app-version": status.app_version,
        "layout": status.layout,
    }


def read_status(items: Mapping[str, Any]) -> PhoneStatus:
    """The inverse of `status_items`.

    Raises:
        KeyError, TypeError, ValueError: it is not such a record.
    """
    captures = {m: _integer(items, key) for m in Modality if (key := f"captures-{m}") in items}
    number, free = _integer(items, "phone"), _integer(items, "free-memory")
    if not all(0 <= value < 2**63 for value in (number, free, *captures.values())):
        raise ValueError("a status has numbers from 0 to 2^63 - 1")
    version, layout = _text(items, "app-version"), _text(items, "layout")
    if max(len(version), len(layout)) > LONGEST_TEXT:  # servers keep it
        raise ValueError(f"a status has texts of at most {LONGEST_TEXT} characters")
    edge = "edge" in items and bool(_integer(items, "edge"))
    charging, bundle = bool(_integer(items, "charging")), _bundle(items)
    return PhoneStatus(number, captures, free, charging, version, layout, edge, bundle)


def part_items(part: Part) -> dict[str, Value]:
    """A fold of updates as a record."""
    seen = {f"seen-{modality}": value for modality, value in part.seen.items()}
    loss = {f"loss-{modality}": value for modality, value in part.loss.items()}
    failures = {f"failures-{kind}": count for kind, count in part.failures.items()}
    bundles = {f"bundle-{name}": count for name, count in part.bundles.items()}
    values: dict[str, Value] = {"round": part.round, "layout": part.layout, "updates": part.updates}
    sums: dict[str, Value] = {
        "rule": part.rule,
        "format": FLOAT64,
        "sums": len(part.total),
        "total": part.total.astype("<f8", copy=False).tobytes(),
        "weight": part.weight.astype("<f8", copy=False).tobytes(),
    }
    return {**values, **seen, **loss, **failures, **bundles, **sums}


def read_part(items: Mapping[str, Any]) -> Part:
    """The inverse of `part_items`; the arrays are read-only and share memory with the record.

    Raises:
        KeyError, TypeError, ValueError: it is not such a record.
    """
    if (form := _text(items, "format")) != FLOAT64:
        raise ValueError(f"a fold has the format {form[:40]!r}, expected {FLOAT64!r}")
    loss = {m: _number(items, key) for m in Modality if (key := f"loss-{m}") in items}
    seen = {m: _integer(items, key) for m in Modality if (key := f"seen-{m}") in items}
    return Part(
        total=_sums(items, "total"),
        weight=_sums(items, "weight"),
        updates=_integer(items, "updates"),
        rule=_text(items, "rule"),
        seen=seen,
        loss=loss,
        failures=_counts(items, "failures-", MOST_KINDS),
        bundles=_counts(items, "bundle-", MOST_BUNDLES),
        round=_integer(items, "round"),
        layout=_text(items, "layout"),
    )


def _counts(items: Mapping[str, Any], prefix: str, most: int) -> dict[str, int]:
    """What a fold counts under names of its own, of which there may be so many."""
    keys = [key for key in items if key.startswith(prefix)]
    if len(keys) > most:
        raise ValueError(f"a fold has {len(keys)} entries {prefix}..., at most {most} are known")
    return {key.removeprefix(prefix): _integer(items, key) for key in keys}


def _sums(items: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    content, rows = items[name], _integer(items, "sums")
    if not isinstance(content, bytes):
        raise TypeError(f"{name} is {type(content).__name__}, expected bytes")
    if rows < 1:
        raise ValueError(f"a fold has {rows} sums")
    return np.frombuffer(content, dtype="<f8").astype(np.float64, copy=False).reshape(rows, -1)


def _weights(items: Mapping[str, Any]) -> tuple[NDArray[np.float32], Packed | None]:
    """Weights, or what they are packed in."""
    if (form := _text(items, "format")) not in set(Format):
        raise ValueError(f"weights have the format {form[:40]!r}, expected one of: {', '.join(Format)}")
    content = items["weights"]
    if not isinstance(content, bytes):
        raise TypeError(f"weights are {type(content).__name__}, expected bytes")
    if form == Format.FLOAT32:
        return weights_from_bytes(content), None
    return PACKED, Packed(Format(form), content)


def _bundle_items(bundle: str) -> dict[str, Value]:
    return {"bundle": bundle} if bundle else {}


def _bundle(items: Mapping[str, Any]) -> str:
    if "bundle" not in items:
        return ""
    if not is_bundle_id(bundle := _text(items, "bundle")):  # servers keep it
        raise ValueError(f"a bundle's id is 64 hex digits, not {bundle[:64]!r}")
    return bundle


def _integer(items: Mapping[str, Any], name: str) -> int:
    value = items[name]
    if type(value) is not int:
        raise TypeError(f"{name} is {type(value).__name__}, expected an integer")
    return value


def _number(items: Mapping[str, Any], name: str) -> float:
    value = items[name]
    if type(value) not in (int, float):
        raise TypeError(f"{name} is {type(value).__name__}, expected a number")
    return float(value)


def _text(items: Mapping[str, Any], name: str) -> str:
    value = items[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is {type(value).__name__}, expected a string")
    return value
