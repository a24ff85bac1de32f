"""What the window says to its children and hears back: one struct a message, one JSON line each."""
