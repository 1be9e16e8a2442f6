"""Pins cover all files of a model, and models that are too new for the service are refused."""

from pathlib import Path

import pytest
from onnx import helper, load_model_from_string

from tests.integration.loader.conftest import LABELS, MODEL, make_labels, make_model, with_external_data
from tests.integration.loader.fault_server import FaultServer, StoredObject
from tests.integration.loader.running import Target, assert_failed
from volume.receipt import sha256_of

WEIGHTS = "iris/1/weights.bin"


@pytest.fixture(name="parted")
def keep_weights_apart(server: FaultServer) -> FaultServer:
    """The server, with a model that has external data."""
    server.objects[MODEL] = StoredObject(with_external_data("weights.bin"))
    server.objects[WEIGHTS] = StoredObject(b"1" * 4000)
    return server


def test_a_pin_covers_the_weights(target: Target, parted: FaultServer) -> None:
    assert target.load().exit_code == 0
    receipt = target.receipt()
    assert receipt
    pinned = receipt.identity
    assert target.load(model_sha256=pinned.upper()).named("done")[0]["in_place"] is True

    parted.objects[WEIGHTS] = StoredObject(b"2" * 4000, generation=2)
    run = target.load(model_sha256=pinned)
    assert_failed(run, 5, "has the identity", f"but MODEL_SHA256 is {pinned}", "correct the setting or the file")
    assert target.receipt() == receipt


@pytest.mark.usefixtures("parted")
def test_the_digest_of_only_one_file_is_refused_with_the_correct_pin(target: Target) -> None:
    target.load()
    receipt = target.receipt()
    assert receipt
    other = Target(target.directory.parent / "other", target.settings)
    run = other.load(model_sha256=receipt.model.sha256)
    assert_failed(run, 5, f"set it to {receipt.identity}, the identity of all of them")
    other.assert_empty()
    assert other.load(model_sha256=receipt.identity).exit_code == 0


@pytest.mark.usefixtures("parted")
def test_the_identity_does_not_depend_on_the_models_name(target: Target) -> None:
    identities = set()
    for name in ("model.onnx", "other"):
        renamed = Target(target.directory.parent / name, target.settings)
        run = renamed.load(model_filepath=renamed.directory / name)
        identities |= {run.named("done")[0]["model"]}
        receipt = renamed.receipt()
        assert receipt
        identities |= {receipt.identity}
    assert len(identities) == 1


def test_a_dry_run_of_local_files_shows_the_pin(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.onnx").write_bytes(with_external_data("weights.bin"))
    (source / "weights.bin").write_bytes(b"1" * 4000)
    (source / "label.json").write_bytes(make_labels("a", "b"))
    target = Target(tmp_path / "workdir", {"MODEL_URI": str(source / "model.onnx")})
    [planned] = target.load(dry_run=True).named("would_load")
    assert planned["onnx"]["external_data"] == ["weights.bin"]
    assert (planned["onnx"]["ir_version"], list(planned["onnx"]["opsets"])) == (14, ["ai.onnx"])
    assert target.load(model_sha256=planned["identity"]).exit_code == 0
    assert_failed(target.load(model_sha256=sha256_of(source / "model.onnx"), dry_run=True), 5, planned["identity"])


def test_the_format_is_in_the_receipt(target: Target) -> None:
    target.load()
    receipt = target.receipt()
    assert receipt
    assert receipt.onnx
    assert (receipt.onnx.ir_version, list(receipt.onnx.opsets)) == (14, ["ai.onnx"])


@pytest.mark.parametrize(
    ("most", "opset", "finding"),
    [
        ({"max_ir_version": 13}, 27, "with IR version 14 (MAX_IR_VERSION is 13): export it for an older version"),
        ({"max_opset": "26,ai.onnx.ml:3"}, 27, "with opset 27 of ai.onnx (MAX_OPSET allows 26)"),
        (
            {"max_opset": "27,ai.onnx.ml:3", "max_ir_version": 14},
            27,
            "with opset 4 of ai.onnx.ml (MAX_OPSET allows 3)",
        ),
        ({"max_opset": "27,ai.onnx.ml:4", "max_ir_version": 14}, 27, ""),
        ({"max_opset": "ai.onnx.ml:5"}, 28, ""),
    ],
)
def test_a_model_that_is_too_new_for_the_service_is_refused(
    target: Target, server: FaultServer, most: dict[str, object], opset: int, finding: str
) -> None:
    made = load_model_from_string(make_model(10))
    made.opset_import[0].version = opset
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 4))
    server.objects[MODEL] = StoredObject(made.SerializeToString())
    run = target.load(**most)
    if finding:
        assert_failed(run, 5, "is too new for the service", finding)
        target.assert_empty()
    else:
        assert run.exit_code == 0


@pytest.mark.parametrize("text", ["x", "1,2", "28,ai.onnx.ml", "28,ai.onnx.ml:5,ai.onnx.ml:4", "-1", "ai.onnx:28,28"])
def test_max_opset_is_a_list_of_versions(target: Target, text: str) -> None:
    assert_failed(target.load(max_opset=text), 2, f"MAX_OPSET is {text!r}: expected operator sets like 28,ai.onnx.ml:5")


def test_labels_are_not_part_of_the_identity(target: Target, server: FaultServer) -> None:
    target.load()
    before = target.receipt()
    server.objects[LABELS] = StoredObject(make_labels("x", "y", "z"), generation=2)
    target.load()
    after = target.receipt()
    assert before
    assert after
    assert (before.identity == after.identity, before.labels == after.labels) == (True, False)
