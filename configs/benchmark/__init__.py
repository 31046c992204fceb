"""Configuration groups of `gje-train` alone."""
