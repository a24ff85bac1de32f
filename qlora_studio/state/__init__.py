"""What the window shows, as models and signals: no widget knows a process or a file."""
