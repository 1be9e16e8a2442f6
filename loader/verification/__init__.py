"""Checks of files before they are published."""
