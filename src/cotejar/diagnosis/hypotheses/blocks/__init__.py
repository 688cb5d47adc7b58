"""Blocks of quantised weights: codes, scales, sub-scales, their order."""
