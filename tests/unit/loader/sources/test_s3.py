"""Checksums and versions of S3 objects."""

import base64
from typing import Any

import pytest

from loader.errors import IntegrityError
from loader.sources.s3 import S3Source, _checksums, _named, _version

ETAG = "0123456789abcdef" * 2
SUM = base64.b64encode(bytes(range(8))).decode()
SHA256 = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    ("head", "checksums"),
    [
        ({}, {"md5": ETAG}),
        ({"ChecksumCRC64NVME": SUM, "ChecksumType": "FULL_OBJECT"}, {"crc64nvme": SUM}),
        (
            {"ChecksumCRC32C": "AAAAAA==", "ChecksumSHA256": SHA256},
            {"crc32c": "AAAAAA==", "sha256": bytes(range(32)).hex()},
        ),
        ({"ChecksumSHA256": SHA256, "ChecksumType": "COMPOSITE"}, {"md5": ETAG}),
        ({"ChecksumSHA256": f"{SHA256}-2"}, {"md5": ETAG}),
        ({"ServerSideEncryption": "AES256"}, {"md5": ETAG}),
        ({"ServerSideEncryption": "aws:kms"}, {}),
        ({"SSECustomerAlgorithm": "AES256"}, {}),
    ],
)
def test_only_checksums_of_the_whole_object_are_used(head: dict[str, str], checksums: dict[str, str]) -> None:
    assert _checksums(head, ETAG) == checksums


def test_the_entity_tag_of_a_multipart_upload_is_not_used_as_a_checksum() -> None:
    assert _checksums({}, f"{ETAG}-3") == {}


@pytest.mark.parametrize(
    ("head", "version", "asked"),
    [
        ({"VersionId": "v1"}, "v1", {"VersionId": "v1"}),
        ({"VersionId": "null"}, f"etag:{ETAG}", {"IfMatch": f'"{ETAG}"'}),
        ({}, f"etag:{ETAG}", {"IfMatch": f'"{ETAG}"'}),
    ],
)
def test_the_version_is_requested_again(head: dict[str, str], version: str, asked: dict[str, str]) -> None:
    answer: dict[str, Any] = {"ContentLength": 5, "ETag": f'"{ETAG}"', **head}
    found = _version("s3://b/a/k", answer)
    assert (found.version, found.size) == (version, 5)
    assert _named("s3://b/a/k", found.version) == {"Bucket": "b", "Key": "a/k", **asked}


def test_compressed_objects_are_refused() -> None:
    with pytest.raises(IntegrityError, match="Content-Encoding gzip"):
        _version("s3://b/k", {"ContentLength": 5, "ETag": ETAG, "ContentEncoding": "gzip"})


def test_a_sibling_has_the_same_directory() -> None:
    assert S3Source.resolve_sibling(object.__new__(S3Source), "s3://b/a/m.onnx", "parts/w") == "s3://b/a/parts/w"
    assert S3Source.resolve_sibling(object.__new__(S3Source), "s3://b/m.onnx", "label.json") == "s3://b/label.json"
