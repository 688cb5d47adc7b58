"""Faults in operations that nobody recorded, told by the first site that was."""
