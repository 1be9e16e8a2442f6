"""The service's code, from the bytes of a request to class probabilities and back."""

import os

# BentoML and ONNX Runtime send usage statistics unless these are set; ONNX Runtime does so from its import on.
for _variable, _value in {"BENTOML_DO_NOT_TRACK": "True", "ORT_DISABLE_TELEMETRY": "1"}.items():
    os.environ[_variable] = os.environ.get(_variable) or _value
