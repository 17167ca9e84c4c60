"""Verbs: one act each over the rows of a batch; nodes own nothing."""
