"""Threads that own the child processes: what is said goes in, what is heard comes out as signals."""
