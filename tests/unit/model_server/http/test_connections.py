"""The sweeps over all connections, and the limit of idle ones."""

import asyncio
from typing import Any
from unittest.mock import create_autospec

from model_server.http.connection import Connection
from model_server.http.connections import Connections
from model_server.settings import Settings
from tests.support.processes import IRIS


def make_connections(**settings: str) -> Connections:
    given = {name.upper(): value for name, value in settings.items()}
    nobody: Any = None
    return Connections({}, nobody, nobody, Settings.read({**IRIS, **given}))


def make_connection() -> Any:
    return create_autospec(Connection, instance=True)


def test_one_sweep_checks_all_connections() -> None:
    async def run() -> int:
        connections = make_connections(request_timeout_seconds="0.04")  # a sweep every 10 ms
        for _ in range(100):
            connection = make_connection()
            connections.add(connection)
            connections.remove(connection)
        last = make_connection()
        connections.add(last)
        await asyncio.sleep(0.2)
        checked: int = last.check_timeouts.call_count
        connections.remove(last)
        return checked

    assert 1 <= asyncio.run(run()) <= 25


def test_the_longest_idle_connection_is_closed_beyond_the_limit() -> None:
    connections = make_connections(max_idle_connections="2")
    idle = [make_connection() for _ in range(3)]
    for connection in idle:
        connections.mark_idle(connection)
    assert [connection.close.called for connection in idle] == [True, False, False]
