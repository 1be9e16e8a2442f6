"""From a connection's bytes to a prediction's, and everything HTTP around that."""
