"""The verbs of `apr`."""
