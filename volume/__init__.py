"""The formats and settings that the loader and the service share: the volume, the receipt, the labels and the log."""
