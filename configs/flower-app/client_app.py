"""Names the phone for Flower, which looks for it beside the configuration."""

from pocketfed.simulator.flower_phone import client_app

__all__ = ["client_app"]
