"""Experiments of many runs: what they are (spec), the runs they share (plan), who runs them (workers), what
came out (results).
"""
