"""Local runners of the pipeline."""
