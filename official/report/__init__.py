"""What people look at when a run has ended: the verdict in words, and a page of HTML."""
