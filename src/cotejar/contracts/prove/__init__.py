"""Bounded proofs about the Python functions that production calls; see `docs/proving.md`."""
