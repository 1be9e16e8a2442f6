"""One server for all tests that only ask it."""

from collections.abc import Iterator

import pytest

from tests.support.processes import IRIS, Server, serving


@pytest.fixture(scope="session")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The iris model, served by a real `bentoml serve`."""
    with serving(tmp_path_factory.mktemp("iris"), IRIS) as server:
        yield server
