"""Networks by name; see `registry`. A new one is a file here and its line there."""
