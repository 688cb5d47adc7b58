"""GGUF block types: bytes to float32 and back, numpy, exact."""
