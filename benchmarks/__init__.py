"""Programs that print ratios against a named peer in one run; never called by the tests."""
