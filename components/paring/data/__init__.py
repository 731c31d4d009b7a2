"""Examples: file formats, columns, splits and record readers."""
