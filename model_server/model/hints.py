"""Hints on how to fix a file that ONNX Runtime cannot load."""

import re

import onnxruntime as ort

_FROM_SCIKIT_LEARN = 'convert a scikit-learn model in it with skl2onnx.to_onnx(model, rows, options={"zipmap": False})'
_FROM_PYTORCH = "convert a PyTorch model in it with torch.onnx.export"
_FROM_KERAS = "convert the Keras model in it with python -m tf2onnx.convert"

_BY_BEGINNING = {
    rb"PK\x03\x04.{,100}data\.pkl": f"it is a zip archive from torch.save; {_FROM_PYTORCH}",
    rb"PK\x03\x04": f"it is a zip archive; unpack it, or, if Keras wrote it, {_FROM_KERAS}",
    rb"\x80\x02\x8a\nl\xfc\x9c": f"it is a pickle from an old version of torch.save; {_FROM_PYTORCH}",
    rb"\x80[\x02-\x05]": f"it is a Python pickle; {_FROM_SCIKIT_LEARN}",
    rb"\x89HDF": f"it is an HDF5 file; {_FROM_KERAS}",
    rb"....TFL3": "it is a TensorFlow Lite model; convert it with python -m tf2onnx.convert --tflite FILE",
    rb"\x1f\x8b|\x28\xb5\x2f\xfd|BZh|\xfd7zXZ": "it is compressed; unpack it",
    rb"version https://git-lfs": "it is a Git LFS pointer; download the file with git lfs pull",
    rb"\s*<[!?a-zA-Z]": "it is an HTML or XML page, possibly an error page; download the file itself",
    rb'\s*\{\s*"|tree\n': "it is text, possibly an XGBoost or LightGBM model; convert such a model with onnxmltools",
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
        'generate that locale, on Debian with "apt-get install locales && localedef -i {1} -f UTF-8 {0}" as root; or '
        'export with the locale C, for skl2onnx with the option "locale": "C" of the vectorizer'
    ),
    r"Failed to allocate memory": (
        "export a smaller model, or give the server more memory if the model really needs that much"
    ),
    r"External data path does not exist": (
        "put the file with its weights next to it, or save all in one file with onnx.save(onnx.load(path), path)"
    ),
    r"External data path": "put the files with its weights into its directory",
    r"No Op registered for|not a registered function": "export it with standard operators only",
    r"INVALID_PROTOBUF": "copy it again if it was cut short, or export the model as ONNX",
}


def hint_for_file(content: bytes, reason: str) -> str:
    """Return how to fix a file with this content that ONNX Runtime refuses for this reason; empty if unknown."""
    for beginning, change in _BY_BEGINNING.items():
        if re.match(beginning, content, re.DOTALL):
            return change
    return hint_for_error(reason)


def hint_for_error(reason: str) -> str:
    """Return how to fix a model that fails for this reason; empty if unknown."""
    for error, change in _BY_ERROR.items():
        if match := re.search(error, reason):
            return change.format(*match.groups())
    return ""


def one_line(error: object) -> str:
    """Return an error of ONNX Runtime as one line, without its code and source location."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : ", "", text)
    # A source path of ONNX Runtime would look like one of the user's files.
    return re.sub(r"/onnxruntime_src/\S+:\d+ .*?\)(?: const|::<lambda\(\)>)? (?=\w)", "", text).rstrip(".")
