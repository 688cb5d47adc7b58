"""Contracts: read, validate and account for what must hold.

A contract is a YAML document of upstream's schema (`schema.py`). `read.py` turns a file into
a typed contract that knows where each key is written, `validate.py` judges it by every rule
in `rules/`, and `render/` writes findings for terminals and other tools. Nothing here
imports an engine.
"""
