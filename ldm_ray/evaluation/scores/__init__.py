"""The scores, each with its source."""
