"""The loader: downloads a model and its label file to the volume that the service reads."""

__version__ = "0.1.0"
