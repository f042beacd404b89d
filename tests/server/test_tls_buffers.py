"""Phones keep their connections, so a connection has to be small."""

import http.client
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from pocketfed.server.certificates import make_certificates

CONNECTIONS = 40
WEIGHTS = 1_500_000
"""Bytes each way."""

SERVER = f"""
import sys
from pathlib import Path
from pocketfed.server.serving import Serving, Tls
from pocketfed.server.turns import Turns

async def exchange(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"{WEIGHTS}")]}})
    await send({{"type": "http.response.body", "body": bytes({WEIGHTS})}})

def resident():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0])

with Serving(Turns(exchange, ["/"]), "127.0.0.1", 0, Tls(Path(sys.argv[1]), Path(sys.argv[2]))) as server:
    print(server.port, flush=True)
    for line in sys.stdin:
        print(resident(), flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from Linux' /proc")
def test_a_connection_that_has_carried_weights_holds_little_memory(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["127.0.0.1"])
    trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    command = [sys.executable, "-c", SERVER, str(tmp_path / "server.pem"), str(tmp_path / "server-key.pem")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        phones = [
            http.client.HTTPSConnection("127.0.0.1", port, context=trusted, timeout=60)
            for _ in range(1 + CONNECTIONS)
        ]
        resident = []
        for phone in phones:
            phone.request("POST", "/weights", bytes(WEIGHTS))
            line = phone.sock
            assert len(phone.getresponse().read()) == WEIGHTS
            assert phone.sock is line  # it was not closed
            server.stdin.write("\n")
            server.stdin.flush()
            resident.append(int(server.stdout.readline()))
        for phone in phones:
            phone.close()
        server.stdin.close()
    # 0.13 MB each here; without any of the bounds, 0.6 MB.
    assert resident[-1] - resident[0] < CONNECTIONS * 250, resident
