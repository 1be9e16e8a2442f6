"""A log event is one line without control characters."""

import json

import pytest

from volume.log import LogLevel, json_line, printable

HOSTILE = ["\x1b[2J", "\x9b31m", "a\nb", "\r", "\x7f", "\u202egnp", "\u2028", "\0", "\U000e0001", "\udcff"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_of_json_has_the_text_and_no_control_character(text: str) -> None:
    line = json_line(LogLevel.INFO, "start", uri=f"gs://b/{text}")
    assert line.removesuffix("\n").isprintable()
    expected = text.encode(errors="backslashreplace").decode()
    assert json.loads(line)["uri"] == f"gs://b/{expected}"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_sentence_is_one_line_without_control_characters(text: str) -> None:
    assert printable(f"a {text} ä").isprintable()
    assert printable("a ä 鳶尾花") == "a ä 鳶尾花"
