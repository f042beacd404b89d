"""Engines: what carries messages between the server and the phones of a simulation."""

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from pocketfed.core.errors import MissingPackageError
from pocketfed.simulator.client_app import build_client_app
from pocketfed.simulator.config import Config
from pocketfed.simulator.inprocess import InProcessGrid

Engine = Callable[[ServerApp, Path], None]
"""Runs a server against the fleet of a folder until the server is done."""


def workers_of(config: Config) -> int:
    """Worker processes: as asked, or one per core, and never more than phones."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(config.workers or cores, config.fleet.phones)


def build_engine(config: Config) -> Engine:
    """The engine of a configuration.

    Raises:
        MissingPackageError: Ray is asked for and not installed.
    """
    if config.engine == "ray":
        if importlib.util.find_spec("ray") is None:
            raise MissingPackageError(
                "the ray engine needs Ray: pip install 'pocketfed[ray]', or use --engine inprocess"
            )
        return functools.partial(_run_on_ray, config)
    return functools.partial(_run_in_process, config)


def _run_in_process(config: Config, server: ServerApp, folder: Path) -> None:
    build = functools.partial(build_client_app, folder)
    with InProcessGrid(build, config.fleet.phones, workers_of(config)) as grid:
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        server(grid, context)


def _run_on_ray(config: Config, server: ServerApp, folder: Path) -> None:
    from flwr.simulation import run_simulation

    init: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if config.ray_address:
        init["address"] = config.ray_address  # Ray refuses a number of processors for a cluster that exists
    else:
        init["num_cpus"] = workers_of(config)
    with warnings.catch_warnings():
        # Flower prefers its own command line to this function; the function is what an embedding program has.
        warnings.simplefilter("ignore")
        run_simulation(
            server,
            build_client_app(folder),
            config.fleet.phones,
            backend_config={"init_args": init, "client_resources": {"num_cpus": 1.0, "num_gpus": 0.0}},
        )
