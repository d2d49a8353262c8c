"""Long documents: blocks, and what aggregates their scores."""
