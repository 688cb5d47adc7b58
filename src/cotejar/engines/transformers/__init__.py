"""Hugging Face transformers on torch: an independent second opinion, on the same sites."""
