"""Parsing of request bodies and encoding of response bodies."""
