"""Private names of BentoML and uvicorn, one module for each."""
