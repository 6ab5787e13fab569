"""A trained model on disk: its files, its card, and what it keeps of its data."""
