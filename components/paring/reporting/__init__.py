"""Charts, figures and templates of the report."""
