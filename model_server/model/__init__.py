"""What an ONNX file is: its inputs, its task, its labels and its verified bytes."""
