"""Engines: what carries messages between the server and the phones of a simulation."""

import functools
import gc
import importlib.util
import os
import re
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from pocketfed.core.errors import ConfigError, MissingPackageError
from pocketfed.simulator.client_app import build_client_app
from pocketfed.simulator.config import Config
from pocketfed.simulator.inprocess import InProcessGrid
from pocketfed.simulator.workers import workers_of

Engine = Callable[[ServerApp, Path, Path], None]
"""Runs a server against the fleet of a folder until the server is done; the other folder is for phones' memories."""


def build_engine(config: Config) -> Engine:
    """The engine of a configuration.

    Raises:
        MissingPackageError: Ray is asked for and not installed.
        ConfigError: nothing listens at the address of the Ray cluster.
    """
    if config.engine == "ray":
        if importlib.util.find_spec("ray") is None:
            raise MissingPackageError(
                "the ray engine needs Ray: pip install -e '.[ray]' in its checkout, or use --engine inprocess"
            )
        _check_address(config.ray_address)
        return functools.partial(_run_on_ray, config)
    return functools.partial(_run_in_process, config)


def _run_in_process(config: Config, server: ServerApp, folder: Path, memories: Path) -> None:
    build = functools.partial(build_client_app, folder, memories)
    with InProcessGrid(build, config.fleet.phones, workers_of(config)) as grid:
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        server(grid, context)


def _run_on_ray(config: Config, server: ServerApp, folder: Path, memories: Path) -> None:
    import ray
    from flwr.simulation import run_simulation

    with warnings.catch_warnings():
        # Flower prefers its own command line to this function; the function is what an embedding program has.
        warnings.simplefilter("ignore")
        _start_ray(config)
        try:
            run_simulation(
                server,
                build_client_app(folder, memories),
                config.fleet.phones,
                backend_config={"client_resources": {"num_cpus": 1.0, "num_gpus": 0.0}},
            )
        finally:
            ray.shutdown()
            gc.collect()  # files that Ray leaves open are closed here, where Python's warnings of them reach nobody


def _start_ray(config: Config) -> None:
    """Start Ray here, or join a cluster; Flower uses a Ray that runs already."""
    import ray

    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    # Ray's workers must find the package wherever this process found it.
    quiet["runtime_env"] = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
    if config.ray_address:
        ray.init(config.ray_address, **quiet)
    else:
        ray.init(num_cpus=workers_of(config), **quiet)


def _check_address(address: str | None) -> None:
    """Ask first whether anybody listens: Ray itself tries for minutes, and then ends the process."""
    place = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address or "")
    if place is None:
        return
    try:
        socket.create_connection((place[1], int(place[2])), timeout=5).close()
    except OSError as error:
        raise ConfigError([f"ray_address: no Ray cluster answers at {address!r} ({error})"]) from error
