"""Our own engine: quantised weights as they are, float32 or ggml's integer arithmetic."""
