"""Foreign data to checked conversations, and these to token ids with a mask of what is learned."""
