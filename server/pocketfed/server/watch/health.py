"""`/healthz`: whether whoever restarts servers should worry. Open to everybody, so it says next to nothing."""

from pocketfed.server.watch.snapshot import Snapshot


def health(shown: Snapshot) -> tuple[int, dict[str, str]]:
    """HTTP status and JSON body: 200 and `ok`, or 503 and `degraded` until the next round is safe.

    A server without enough phones is healthy: nothing that a restart would mend.
    """
    if shown.trouble is not None:
        return 503, {"status": "degraded"}
    return 200, {"status": "ok"}
