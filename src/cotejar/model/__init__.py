"""A language model as engines see it: its configuration, and its weights by canonical name."""
