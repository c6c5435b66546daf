"""YAML to typed settings, all problems at once; knows no results folder."""
