"""A comparison made to be looked at and passed on: one page, the same as Markdown, and its pictures."""
