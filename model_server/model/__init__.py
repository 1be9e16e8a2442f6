"""The model: its verified file, inputs, task and labels, and inference on it."""
