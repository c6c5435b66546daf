"""Where runs are carried out when it is not here: one file, one engine."""
