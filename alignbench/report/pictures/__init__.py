"""Pictures, one file each: from numbers to SVG. No library draws them, so that they need none and stay small."""
