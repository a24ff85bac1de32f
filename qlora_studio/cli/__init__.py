"""The window's jobs in a terminal."""
