"""The KV cache: what was written where, and what each step read."""
