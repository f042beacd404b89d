"""What Flower raises: by the mistakes of callers, and by the disk."""

from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError as NotStoredError
from flwr.supercore.object_store import NoObjectInStoreError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.exc import OperationalError as DatabaseError

__all__ = ["LONGEST_REASON", "MISTAKES", "DatabaseError", "NotStoredError", "refused"]

LONGEST_REASON = 300
"""Characters."""

MISTAKES = (KeyError, ValueError, OverflowError, NoObjectInStoreError, IntegrityError)
"""What Flower raises on calls that make no sense: an unknown run, an object that is not what its id says."""


def refused(why: str) -> FlowerError:
    """A call that makes no sense."""
    return FlowerError(ApiErrorCode.INVALID_PROTOBUF_PAYLOAD, why)
