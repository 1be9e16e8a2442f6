"""The label file."""

from pathlib import Path

import pytest

from model_server.errors import StartError
from model_server.model.labels import load_labels
from volume.receipt import FileRecord


def test_names_are_in_the_order_of_their_indices(tmp_path: Path) -> None:
    path = tmp_path / "label.json"
    path.write_text('{"2": "c", "10": "k", "0": "a", "1": "b", "3": "d", "4": "e", "5": "f", "6": "g", "7": "h",'
                    '"8": "i", "9": "\u00fc"}')  # fmt: skip
    assert load_labels(path) == ("a", "b", "c", "d", "e", "f", "g", "h", "i", "\u00fc", "k")


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[" * 5_000_000, "has 5000000 bytes; a label file has at most 4194304"),
        ('{"0": "a", "0": "b"}', "a key occurs twice"),
        ('["a", "b"]', "must be a JSON object"),
        ("{}", "must be a JSON object"),
        ('{"1": "a", "2": "b"}', 'has 2 entries, so its keys must be "0" to "1": "0" is missing'),
        ('{"setosa": "0"}', '"0" is missing'),
        ('{"0": 1}', 'must map every index to a string: "0" does not'),
        ('{"0": null}', 'must map every index to a string: "0" does not'),
        ('{"0": ""}', 'must map every index to a string: "0" does not'),
        ('{"0": "\\ud800"}', 'must map every index to a string: "0" does not'),
    ],
)
def test_refuses(tmp_path: Path, content: str, finding: str) -> None:
    path = tmp_path / "label.json"
    path.write_text(content)
    with pytest.raises(StartError) as refusal:
        load_labels(path)
    assert str(path) in str(refusal.value)
    assert finding in str(refusal.value)


def test_a_missing_file_is_allowed(tmp_path: Path) -> None:
    assert load_labels(tmp_path / "label.json") is None


def test_refuses_a_listed_or_linked_file_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "label.json"
    record = FileRecord(name="label.json", uri="file:///label.json", version="1", size=2, sha256="0")
    with pytest.raises(StartError, match=r"cannot read .*: No such file"):
        load_labels(path, record)
    path.symlink_to("nothing")
    with pytest.raises(StartError, match=r"cannot read .*: No such file"):
        load_labels(path)
