"""Ray Tune: searches and their trials."""
