"""Models that are asked in words: where they run, what they are asked, and what is made of their answers."""
