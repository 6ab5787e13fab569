"""The networks. Know no files."""
