"""The networks; they read and write no files."""
