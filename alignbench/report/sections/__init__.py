"""The parts of a report, one file each: from a comparison and its runs to blocks."""
