"""Bytes from shapes: what a run will take of the card, of RAM and of the disk, before it starts."""
