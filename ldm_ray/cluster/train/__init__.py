"""Ray Train: runs, their workers, and how wells reach the workers."""
