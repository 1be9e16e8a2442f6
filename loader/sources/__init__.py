"""The sources of models: one module per source, selected by the scheme of the URI."""
