"""A real SuperLink on loopback, in a thread of the test: Flower's own app, link state and grid."""

import threading
import time
import warnings
from pathlib import Path
from typing import Any

import uvicorn
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.grid import HttpGrid
from flwr.superlink.main import create_app
from flwr.superlink.servicer.runtime import runtime_handlers


class _Runtime:
    """The server's side of the grid, without the network in between."""

    def __init__(self, state: Any, task: Any) -> None:
        self._state, self._task = state, task

    def GetNodes(self, request: Any) -> Any:
        return runtime_handlers.get_nodes(request, self._state, self._task)

    def PushMessages(self, request: Any) -> Any:
        return runtime_handlers.push_messages(request, self._state, self._task)

    def PullMessages(self, request: Any) -> Any:
        return runtime_handlers.pull_messages(request, self._state, self._task)

    def PushObject(self, request: Any) -> Any:
        return runtime_handlers.push_object(request, self._state, self._task)

    def PullObject(self, request: Any) -> Any:
        return runtime_handlers.pull_object(request, self._state, self._task)

    def ConfirmMessageReceived(self, request: Any) -> Any:
        return runtime_handlers.confirm_message_received(request, self._state, self._task)


class _Grid(HttpGrid):
    def __init__(self, runtime: _Runtime) -> None:
        super().__init__(token="local")
        self._client = runtime  # type: ignore[assignment]

    def _disconnect(self) -> None:
        self._client = None


class SuperLink:
    """A server with one run."""

    def __init__(
        self,
        port: int = 0,
        auth: bool = False,
        database: Path | None = None,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        config = SuperLinkLifespanConfig(
            control_address="", health_server_address=None, host="127.0.0.1", port=port, insecure=not certificate,
            certificates=None, superexec_auth_secret=None, authn_plugin=NoOpControlAuthnPlugin(),
            event_log_plugin=None, fleet_event_log_plugin=None, enable_event_log=False, artifact_provider=None,
            enable_supernode_auth=auth, fleet_api_type="grpc-rere", fleet_api_address=None, simulation=False,
            ssl_ca_certfile=None, ssl_certfile=None, ssl_keyfile=None,
            database=str(database) if database else FLWR_IN_MEMORY_DB_NAME, isolation="process",
            runtime_dependency_install=False,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # in the libraries of Flower's database
            app = create_app(config, SuperLinkLifespan)
        self.state = app.state.linkstate_factory.state()
        # Uvicorn's own set-up of logs closes every handler of the process, and absl's handler then closes the stream
        # that it was made with, which is pytest's.
        options: dict[str, Any] = {
            "log_config": None,
            "log_level": "critical",
            "access_log": False,
            "ws": "none",
        }
        options |= zip(("ssl_certfile", "ssl_keyfile"), map(str, certificate or ()), strict=False)
        self._uvicorn = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, **options))
        self._thread = threading.Thread(target=self._uvicorn.run, daemon=True)
        self._thread.start()
        while not self._uvicorn.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        self.port = self._uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.port}"
        self._begin_run()

    def _begin_run(self) -> None:
        state = self.state
        run = state.create_run(
            "test/app", "1.0.0", "0" * 64, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        info = state.get_run_info(run_ids=[run])[0]
        state.claim_task(info.primary_task_id)
        state.activate_task(info.primary_task_id)
        self.run, self.task = run, info.primary_task_id
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = self.task, run, SUPERLINK_NODE_ID
        self.grid = _Grid(_Runtime(state, state.get_tasks(task_ids=[self.task])[0]))
        self.grid.set_run(info)

    def enrol(self, public_pem: bytes) -> int:
        """What an operator does where phones may not register themselves."""
        return int(self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_pem, 0))

    def revoke(self, node: int) -> None:
        self.state.delete_node(NOOP_FLWR_AID, node)

    def ask(
        self, node: int, items: dict[str, Any] | None = None, kind: str = "train", ttl: float = 60.0
    ) -> str:
        """Send a question to a phone; its id."""
        content = RecordDict({} if items is None else {"instruction": ConfigRecord(items)})
        message = Message(content, dst_node_id=node, message_type=kind, ttl=ttl)
        (name,) = self.grid.push_messages([message])
        return name

    def answer(self, question: str) -> Message | None:
        """What the phone answered, if it has."""
        found = list(self.grid.pull_messages([question]))
        return found[0] if found else None

    def stop(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()
