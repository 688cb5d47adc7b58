"""Norms, activations and the residual stream, value by value."""
