"""From the files that users download to prepared sets of faces: check, clean, split, record."""
