"""What both trainings share: configuration, processes, checkpoints, weight averaging, logging, the loop."""
