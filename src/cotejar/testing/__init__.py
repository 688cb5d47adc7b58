"""Tiny models for your own tests: real files of every format, small, seeded, and awkward."""
