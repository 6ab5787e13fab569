"""Ray Serve: the deployments and how they are started."""
