"""Attention: scores, masks, heads, what is added, which keys are seen."""
