"""Recipes, settings and the DAG built from them."""
