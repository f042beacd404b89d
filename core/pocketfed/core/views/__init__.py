"""Views: from raw captures and uniform random numbers to inputs of the encoder."""

from pocketfed.core.views.photo import PhotoView
from pocketfed.core.views.sound import SoundView
from pocketfed.core.views.view import View

__all__ = ["PhotoView", "SoundView", "View"]
