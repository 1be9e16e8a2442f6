"""`python -m model_server check`: reports whether a file can be served, using the same code as the service."""

import json
import math
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime as ort
import orjson

from model_server.errors import StartError
from model_server.model.inputs import SAMPLE_PROPERTY
from model_server.model.labels import load_labels
from model_server.model.model import Model, load_predictor
from model_server.model.model_file import ModelFile
from model_server.model.predictor import Predictor
from model_server.model.tasks import OutputKind, Task
from model_server.protocols.json_rows import encode_answers
from model_server.settings import Settings
from volume.log import printable
from volume.settings import SettingsError

_URL = "http://127.0.0.1:3000"
_POST = "-H 'content-type: application/json' -d"
_SAMPLE = """python3 -c 'import json, sys; print(json.dumps({"data": json.load(sys.stdin)["data_sample"]}))'"""
_NO_SAMPLE = f'the sample is made up; set the metadata property "{SAMPLE_PROPERTY}" to replace it with a real row'
_CONTENTS = {
    OutputKind.PROBABILITIES: "the class probabilities",
    OutputKind.LOGITS: "the class scores before a softmax",
    OutputKind.LOG_PROBABILITIES: "the logarithms of the class probabilities",
    OutputKind.SIGMOID: "probabilities",
    OutputKind.SIGMOID_LOGITS: "probabilities before a sigmoid",
    OutputKind.VALUES: "the values",
}
_MAX_SHOWN = 1000  # characters; a longer text is shortened to its beginning and its end
_SHOWN_AT_ENDS = 200  # characters at each end of a shortened text


def check(model: Path, labels: Path | None, *, as_json: bool, seconds: float) -> int:
    """Print whether the model can be served, with its properties or the reason; return 0 if it can and 1 if not.

    Args:
        model: the ONNX file, or a directory with one.
        labels: the label file; None uses the `label.json` next to the model, or placeholder names if it is missing.
        as_json: print a JSON document instead of text.
        seconds: time limit; after it, the process exits with status 1.
    """

    def give_up() -> None:
        reason = f"MODEL_FILEPATH: {model} was not loaded, or made no first prediction, within {seconds:g} s"
        _print(_refusal(reason, "use a smaller model, or raise --timeout"), as_json=as_json)
        os._exit(1)

    late = threading.Timer(seconds, give_up)
    late.daemon = True
    late.start()
    try:
        report = examine(model, labels)
    except StartError as error:
        report = _refusal(error.reason, error.fix)
    except SettingsError as error:
        report = _refusal(str(error))
    late.cancel()
    _print(report, as_json=as_json)
    return 0 if report["servable"] else 1


def examine(model: Path, labels: Path | None) -> dict[str, Any]:
    """Return a report on how the service serves the model, as JSON values.

    Raises:
        SettingsError: a path does not name a file, or another setting of the service is invalid.
        StartError: the files cannot be served.
    """
    sibling = model / "label.json" if model.is_dir() else model.with_name("label.json")
    if labels is None and os.path.lexists(sibling):
        labels = sibling
    settings = Settings.read(
        # The setting must name an existing file. Without a label file, any file will do, because it is not read.
        {**os.environ, "MODEL_FILEPATH": str(model), "LABEL_FILEPATH": str(labels or __file__)}
    )
    file = ModelFile.read(settings.model_file)
    names = load_labels(labels, file.receipt.labels if file.receipt else None) if labels else None
    predictor = load_predictor(file, names, settings)
    return _describe(
        file,
        labels,
        predictor,
        Model(predictor, predictor.names or _placeholder_names(predictor, model), file, settings.batching),
    )


def _placeholder_names(predictor: Predictor, model: Path) -> tuple[str, ...]:
    if predictor.task is Task.VALUES:
        return ()
    prefix = "" if model.is_dir() else "class "  # without names, the service serves the model of a directory by indices
    return tuple(f"{prefix}{index}" for index in range(predictor.sample_prediction.shape[1]))


def _describe(file: ModelFile, labels: Path | None, predictor: Predictor, model: Model) -> dict[str, Any]:
    signature = predictor.signature
    rows = model.spec.rows(model.metadata.data_sample)
    one = model.sample_seconds
    # The latency is unknown if the length of a row varies.
    additional = None if math.isinf(model.estimate_latency(1)) else model.estimate_latency(2) - one
    receipt = file.receipt and {
        "uri": file.receipt.model.uri,
        "version": file.receipt.model.version,
        "started": file.receipt.started.isoformat(),
        "signed_by": file.signed_by or None,
    }
    return {
        "servable": True,
        "model": {
            "path": str(file.path),
            "bytes": len(file.content),
            "sha256": file.identity,
            "producer": signature.producer,
            "producer_version": file.onnx.producer_version if file.onnx else "",
            "ir_version": file.onnx.ir_version if file.onnx else None,
            "opsets": file.onnx.opsets if file.onnx else {},
            "external_data": list(file.onnx.external_data) if file.onnx else [],
            "receipt": receipt,
        },
        "inputs": [
            {"name": name, "type": spec.type_name, "shape": [signature.inputs.batch, *spec.row_shape]}
            for name, spec in signature.inputs.specs.items()
        ],
        "outputs": [
            {"name": found.name, "type": found.type, "shape": found.shape, "used": found.name == signature.output.name}
            for found in signature.outputs
        ],
        "task": str(model.task),
        "output_kind": str(signature.output.kind),
        "labels": model.labels,
        "label_file": str(labels) if labels else None,
        "has_names": bool(predictor.names) or model.task is Task.VALUES,
        "model_label": signature.output.model_label,
        "own_sample": SAMPLE_PROPERTY in signature.properties,
        "metadata": {name: value for name, value in asdict(model.metadata).items() if value is not None},
        "request": {"data": model.metadata.data_sample},
        "predict": orjson.loads(encode_answers(model.predict(rows))),
        "predict_label": None if model.task is Task.VALUES else orjson.loads(encode_answers(model.predict_label(rows))),
        "seconds": one,
        "seconds_per_additional_row": additional,
        "batching": asdict(model.batching),
        "onnxruntime": ort.__version__,
    }


def _refusal(reason: str, fix: str = "") -> dict[str, Any]:
    return {"servable": False, "reason": reason, "fix": fix}


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    lines = [orjson.dumps(report, option=orjson.OPT_INDENT_2).decode()] if as_json else map(printable, _lines(report))
    text = "\n".join(lines)
    # Names may contain characters that the terminal cannot encode.
    print(text.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding), flush=True)


def _lines(report: dict[str, Any]) -> list[str]:
    if not report["servable"]:
        lines = [f"Cannot be served. {report['reason'].rstrip('.')}."]
        return [*lines, f"Fix: {report['fix']}."] if report["fix"] else lines
    model, metadata = report["model"], report["metadata"]
    routes = [("/predict", report["predict"]), ("/predict/label", report["predict_label"])]
    return [
        f"{model['path']} can be served{'' if report['has_names'] else ', once it has a label file'}.",
        "",
        f"file       {model['bytes']} bytes, {_format_identity(model)}",
        f"format     {_format_versions(model)}",
        f"receipt    {_format_receipt(model['receipt'])}",
        *(
            f"input      {_quote(found['name'])} {found['type']} {_format_shape(found['shape'])}"
            for found in report["inputs"]
        ),
        *(f"output     {_format_output(output, report['output_kind'])}" for output in report["outputs"]),
        f"inference  {_format_time(report)}, with ONNX Runtime {report['onnxruntime']}",
        f"batching   {_format_batching(report['batching'])}",
        f"labels     {_format_labels(report)}",
        *([] if report["model_label"] is None else [f"label      {_format_model_label(report)}"]),
        *([f"/label     {_compact(report['labels'])}"] if report["labels"] else []),
        f"/metadata  {_compact(metadata)}",
        *([] if report["own_sample"] else [f"           {_NO_SAMPLE}"]),
        "",
        *(
            line
            for route, answer in routes
            if answer is not None
            for line in _format_route(route, report["request"], answer)
        ),
    ]


def _format_identity(model: dict[str, Any]) -> str:
    others = len(model["external_data"])
    suffix = f" with {others} external data file{'s' * (others > 1)}" if others else ""
    return f"sha256 {model['sha256']}{suffix}"


def _format_versions(model: dict[str, Any]) -> str:
    opsets = ", ".join(f"{_quote(domain)[1:-1]} {version}" for domain, version in model["opsets"].items())
    producer = " ".join(_quote(text) for text in (model["producer"], model["producer_version"]) if text)
    return f"IR version {model['ir_version']}, opsets {opsets}" + (f", made by {producer}" if producer else "")


def _format_receipt(receipt: dict[str, Any] | None) -> str:
    if receipt is None:
        return "none: the file was not loaded by the loader"
    signed = f", signed by {receipt['signed_by']}" if receipt["signed_by"] else ""
    return f"matches: {receipt['uri']} version {receipt['version']}, loaded {receipt['started']}{signed}"


def _format_output(output: dict[str, Any], holds: str) -> str:
    use = ""
    if output["used"]:
        form = "a tensor" if output["type"].startswith("tensor") else "as the maps of a ZipMap"
        use = f": {_CONTENTS[OutputKind(holds)]}, {form}"
    return f"{_quote(output['name'])} {output['type']} {_format_shape(output['shape'] or [])}{use}".replace(" ()", "")


def _format_labels(report: dict[str, Any]) -> str:
    if report["task"] == Task.VALUES:
        return "not needed: the model predicts values"
    if report["label_file"]:
        return str(report["label_file"])
    if report["has_names"]:
        return "none: the model contains the class names"
    return "none: create a label.json next to the model, with names in this format"


def _format_model_label(report: dict[str, Any]) -> str:
    served = report["predict_label"]["prediction"]
    return f"the model labels the sample {_compact(report['model_label'])}; the service answers {_compact(served)}"


def _format_time(report: dict[str, Any]) -> str:
    more = report["seconds_per_additional_row"]
    additional = "" if more is None else f", {more * 1e6:.2f} us for each additional row"
    return f"{report['seconds'] * 1e6:.1f} us for one row{additional}"


def _format_batching(batching: dict[str, Any]) -> str:
    limit = batching["max_rows"]
    mode = f"up to {limit} rows per inference" if limit > 1 else "each request alone"
    return f"{mode}: {batching['reason']}"


def _format_route(route: str, request: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    body = json.dumps(request)
    if len(body) > _MAX_SHOWN:
        return [f"$ curl -s {_URL}/metadata | {_SAMPLE} | curl -s {_URL}{route} {_POST} @-", _compact(answer)]
    return [f"$ curl -s {_URL}{route} {_POST} '{body}'", _compact(answer)]


def _format_shape(dimensions: list[int | str | None]) -> str:
    named = [
        _quote(length)[1:-1] if isinstance(length, str) else "N" if not axis and length is None else length or "any"
        for axis, length in enumerate(dimensions)
    ]
    return f"({', '.join(map(str, named))})"


def _quote(name: str) -> str:
    """Return the name in quotes, with control characters escaped so that a terminal does not interpret them."""
    return orjson.dumps(name).decode()


def _compact(value: object) -> str:
    """Return the value as the service's JSON; a long value is shortened in the middle."""
    text = orjson.dumps(value).decode()
    return text if len(text) <= _MAX_SHOWN else f"{text[:_SHOWN_AT_ENDS]} … {text[-_SHOWN_AT_ENDS:]}"
