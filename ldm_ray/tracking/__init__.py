"""Records of training runs, and the trackers that follow them. No Ray here."""
