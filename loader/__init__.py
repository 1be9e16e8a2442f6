"""The loader: brings a model and its label file into the volume that the service reads."""

__version__ = "0.1.0"
