"""Ray tasks and actor pools for prepare, embed, evaluate and predict."""
