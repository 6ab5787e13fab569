"""Records of training runs, and trackers that follow them. No Ray here."""
