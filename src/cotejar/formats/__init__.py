"""Model files: open them lazily, check every offset, write atomically, convert."""
