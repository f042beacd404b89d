"""Photos and sounds in memory: from folders, from `.npz` files, or made by the package itself."""

from pocketfed.core.captures.captures import SAMPLE_RATE, Captures, Split
from pocketfed.core.captures.embedded import embedded_photos, embedded_sounds
from pocketfed.core.captures.load import load_photos, load_sounds

__all__ = [
    "SAMPLE_RATE",
    "Captures",
    "Split",
    "embedded_photos",
    "embedded_sounds",
    "load_photos",
    "load_sounds",
]
