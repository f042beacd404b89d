"""What tests of several parts of a server share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def quiet_flower() -> Iterator[None]:
    """Flower logs every message and every refusal, in colours."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)
