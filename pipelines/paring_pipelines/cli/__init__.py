"""Commands, options and console output of `paring`."""
