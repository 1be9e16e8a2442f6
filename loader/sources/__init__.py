"""Where a model can come from: one module per source, chosen by the scheme of a URI."""
