"""The pipeline: recipes, the Dag, and the places it runs."""
