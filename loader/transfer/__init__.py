"""Downloads: range requests, resumption with a journal, retries, and HTTP."""
