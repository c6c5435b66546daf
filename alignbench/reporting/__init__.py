"""Run directories and what is read from them: frames, tables, verdicts. No torch."""
