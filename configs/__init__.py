"""Hydra configuration: one folder per group; the schema and its defaults stand in `agents/config.py`."""
