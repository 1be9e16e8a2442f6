"""Scheduling of inferences: on the event loop, in threads, and in batches."""
