"""When and where an inference runs."""
