"""What is measured on completions: one file, one metric or family."""
