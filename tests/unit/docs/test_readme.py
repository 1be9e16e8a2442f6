"""The README's tables and figures."""

import re

from loader.settings import Settings as LoaderSettings
from model_server.settings import Settings as ServiceSettings
from tests.support.documents import DOCUMENTS

README = DOCUMENTS["README.md"]
ROW = re.compile(r"^\| `([A-Z_0-9]+)` \| ([a-z, ]+) \|", re.MULTILINE)


def test_settings_table_is_whole() -> None:
    fields: dict[str, set[str]] = {}
    for owner, settings in (("loader", LoaderSettings), ("service", ServiceSettings)):
        for name in settings.__struct_fields__:
            fields.setdefault(name.upper(), set()).add(owner)
    assert {name: set(owners.split(", ")) for name, owners in ROW.findall(README)} == fields
