"""Ray Serve: the deployments, and how they start."""
