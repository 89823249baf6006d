"""Models: what a checkpoint needs in order to load and run."""
