"""The metadata of different kinds of models."""

from pathlib import Path

from onnx import TensorProto

from model_server.model.metadata import Metadata, describe
from model_server.model.model_file import ModelFile
from model_server.model.predictor import Predictor
from tests.support.classifiers import classifier, save

LABELS = ["a", "b"]


def metadata(directory: Path, **kind: object) -> Metadata:
    path, _ = save(classifier(classes=2, **kind), directory, LABELS)  # type: ignore[arg-type]
    return describe(Predictor(ModelFile.read(path), LABELS))


def test_metadata_of_an_image_classifier(tmp_path: Path) -> None:
    assert metadata(tmp_path, row_shape=(1, 2, 2), batch=1, output_type=TensorProto.DOUBLE) == Metadata(
        data_type="float32",
        data_shape="(1, 1, 2, 2)",
        data_sample=[[[[0.0, 0.0], [0.0, 0.0]]]],
        prediction_type="float64",
        prediction_shape="(1, 2)",
        prediction_sample=[0.5, 0.5],
    )


def test_metadata_of_a_boolean_model_with_a_sample(tmp_path: Path) -> None:
    made = metadata(
        tmp_path, input_type=TensorProto.BOOL, row_shape=(3,), batch=8, properties={"data_sample": "[[1, 0, 1]]"}
    )
    assert (made.data_type, made.data_shape, made.data_sample) == ("bool", "(1, 3)", [[1, 0, 1]])


def test_metadata_of_dynamic_dimensions(tmp_path: Path) -> None:
    made = metadata(tmp_path, row_shape=("length", 3), zip_map=True)
    assert (made.data_shape, made.data_sample) == ("(1, None, 3)", [[[0.0, 0.0, 0.0]]])


def test_sample_has_the_shortest_decimals(tmp_path: Path) -> None:
    made = metadata(tmp_path, row_shape=(2,), properties={"data_sample": "[[5.1, 0.1]]"})
    assert made.data_sample == [[5.1, 0.1]]
