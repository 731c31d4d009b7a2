"""Pipeline steps, one function per file."""
