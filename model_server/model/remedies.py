"""What ONNX Runtime says of a file that it does not load, and what to do about that."""

import re

import onnxruntime as ort

_FROM_SCIKIT_LEARN = 'skl2onnx.to_onnx(model, rows, options={"zipmap": False}) makes ONNX of a scikit-learn model in it'
_FROM_PYTORCH = "torch.onnx.export makes ONNX of a PyTorch model in it"
_FROM_KERAS = "python -m tf2onnx.convert makes ONNX of the Keras model in it"

_BY_BEGINNING = {
    rb"PK\x03\x04.{,100}data\.pkl": f"it is a zip archive as torch.save writes it; {_FROM_PYTORCH}",
    rb"PK\x03\x04": f"it is a zip archive; unpack it, or, if Keras wrote it, {_FROM_KERAS}",
    rb"\x80\x02\x8a\nl\xfc\x9c": f"it is a pickle as torch.save wrote it once; {_FROM_PYTORCH}",
    rb"\x80[\x02-\x05]": f"it is a Python pickle; {_FROM_SCIKIT_LEARN}",
    rb"\x89HDF": f"it is an HDF5 file; {_FROM_KERAS}",
    rb"....TFL3": "it is a TensorFlow Lite model; python -m tf2onnx.convert --tflite FILE makes ONNX of it",
    rb"\x1f\x8b|\x28\xb5\x2f\xfd|BZh|\xfd7zXZ": "it is compressed; unpack it",
    rb"version https://git-lfs": "it only points to a file in Git LFS; get that with git lfs pull",
    rb"\s*<[!?a-zA-Z]": "it is a page of HTML or XML, maybe an answer that the file was not found; get the file itself",
    rb'\s*\{\s*"|tree\n': "it is text, maybe of XGBoost or LightGBM; onnxmltools makes ONNX of their models",
    rb"\Z": "it is empty; copy it again",
}
_BY_ERROR = {
    r"max supported IR version": (
        f"export it with an older onnx package, or set ir_version to what ONNX Runtime {ort.__version__} supports"
    ),
    r"for domain (\S+) is till opset (\d+)": (
        f"export it with operator set {{1}} of {{0}} or an older one (target_opset), for ONNX Runtime {ort.__version__}"
    ),
    r"construct locale with name:((\w+)\.[^:]+):": (
        'make that locale, on Debian with "apt-get install locales && localedef -i {1} -f UTF-8 {0}" as root; or '
        'export with the locale C, for skl2onnx with the option "locale": "C" of the vectorizer'
    ),
    r"Failed to allocate memory": (
        "export a smaller model, or give the server more memory, if the model is to request that much"
    ),
    r"External data path does not exist": (
        "put the file that holds its weights beside it, or save all in one file with onnx.save(onnx.load(path), path)"
    ),
    r"External data path": "keep its weights in files of its own directory",
    r"No Op registered for|not a registered function": "export it with standard operators only",
    r"INVALID_PROTOBUF": "copy it again if it was cut short, or export the model as ONNX",
}


def remedy(content: bytes, reason: str) -> str:
    """Return what to do about a file with this content that was refused for this reason; empty if that is unknown."""
    for beginning, change in _BY_BEGINNING.items():
        if re.match(beginning, content, re.DOTALL):
            return change
    return remedy_of_error(reason)


def remedy_of_error(reason: str) -> str:
    """Return what to do about a model that fails for this reason; empty if that is unknown."""
    for error, change in _BY_ERROR.items():
        if match := re.search(error, reason):
            return change.format(*match.groups())
    return ""


def one_line(error: object) -> str:
    """Return an error of ONNX Runtime as the one line that says what happened."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : ", "", text)
    # Without where in its source it happened, for one takes that for a file of one's own.
    return re.sub(r"/onnxruntime_src/\S+:\d+ .*?\)(?: const|::<lambda\(\)>)? (?=\w)", "", text).rstrip(".")
