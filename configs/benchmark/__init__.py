"""Configuration groups of `gje-video benchmark` alone."""
