"""Configuration groups of `gje-video` alone."""
