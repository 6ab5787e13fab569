"""A trained model on disk: its files, its model card, and what it keeps of its training data."""
