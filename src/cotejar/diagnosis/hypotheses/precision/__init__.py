"""Roundings and sums that no numerics declares."""
