"""Names the server for Flower, which looks for it beside the configuration."""

from pocketfed.simulator.flower_server import server_app

__all__ = ["server_app"]
