"""What a run stands on: its directory, checkpoints, metrics, progress, devices and signals."""
