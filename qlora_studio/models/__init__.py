"""Foreign models and adapters: what is checked before anything of theirs is used."""
