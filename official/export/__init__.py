"""A trained model for others: `.keras`, a SavedModel, TFLite; one file a task, one for what they share."""
