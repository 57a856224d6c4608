"""Readers of other people's weight files, none of which executes anything, and where public weights are
found.
"""
