"""Files at any URL."""
