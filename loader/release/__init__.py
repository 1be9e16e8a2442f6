"""The files of a load in the volume: staged, then published in one instant."""
