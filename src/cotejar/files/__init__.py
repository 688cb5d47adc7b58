"""What a file on disk holds, and what differs between two: inspect, list, diff, read back."""
