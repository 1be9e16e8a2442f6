"""HTTP: connections, prediction endpoints, errors, documents and pages."""
