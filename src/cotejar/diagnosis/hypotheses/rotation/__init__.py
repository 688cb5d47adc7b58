"""RoPE, and what is done to each head before and after it."""
