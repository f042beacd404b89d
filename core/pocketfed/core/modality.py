"""The two kinds of captures that one encoder learns from."""

from enum import StrEnum


class Modality(StrEnum):
    """What a capture is. The value is the name in programs, metrics and configuration files."""

    PHOTO = "photo"
    SOUND = "sound"
