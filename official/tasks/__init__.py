"""What is learned and how it is evaluated, one file per task."""
