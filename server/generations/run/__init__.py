"""What a run keeps of itself: its log, its messages, its files, its budget, its figures and its failures."""
