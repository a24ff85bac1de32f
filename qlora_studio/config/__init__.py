"""What a run is made of: settings with limits and words, presets, TOML in and out, and where files lie."""
