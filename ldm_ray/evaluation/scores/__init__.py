"""The measures, each with its source."""
