"""The pipeline: recipes, the Dag, and its runners."""
