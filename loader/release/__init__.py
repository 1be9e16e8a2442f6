"""Staging of the files in the volume, and their atomic publication."""
