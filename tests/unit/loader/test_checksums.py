"""Checksums match their published test vectors."""

import pytest

from loader.checksums import Hasher

# The check values for "123456789" in CRC catalogues and FIPS 180.
KNOWN = {
    "crc32": "y/Q5Jg==",
    "crc32c": "4waSgw==",
    "crc64nvme": "rosUhgp5mIg=",
    "md5": "25f9e794323b453885f5181f1b624d0b",
    "sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_checksum_matches_its_check_value(name: str) -> None:
    hasher = Hasher([name])
    hasher.update(b"1234")
    hasher.update(b"56789")
    digest = hasher.digest()
    assert digest.checksums == {name: KNOWN[name], "sha256": KNOWN["sha256"]}
    assert (digest.size, digest.sha256) == (9, KNOWN["sha256"])
    assert digest.mismatches({name: KNOWN[name]}) == []
    assert digest.mismatches({name: "other"}) == [name]
