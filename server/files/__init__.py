"""Files that messages name: their bytes, what type they are, and until when they are kept."""
