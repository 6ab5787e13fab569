"""Training of one worker: wells, tasks, losses and the loop."""
