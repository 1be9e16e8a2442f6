"""Private APIs of BentoML and uvicorn, one module for each."""
