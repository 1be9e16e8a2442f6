"""What the loader and the service agree on: where the model and its labels stand in the volume they share."""
