"""Check a language model's copy against its original, side by side."""

__version__ = "0.1.0"
