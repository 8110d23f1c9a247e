"""The pages, and the scripts that make those which come from the code."""
