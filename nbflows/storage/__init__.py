"""Models as files: weights, what is published, downloads, checkpoints that execute nothing."""
