"""Schedule and costs to timeline, memory and traffic."""
