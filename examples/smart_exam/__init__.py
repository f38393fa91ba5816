"""A grader whose strictness people move while it grades."""
