"""What the service is made of: from the bytes of a request to class probabilities and back."""

import os

# Both post usage statistics unless told not to, ONNX Runtime from the moment that it is imported.
for _variable, _value in {"BENTOML_DO_NOT_TRACK": "True", "ORT_DISABLE_TELEMETRY": "1"}.items():
    os.environ[_variable] = os.environ.get(_variable) or _value
