"""Long documents: blocks, and what aggregates their scores. Nothing is in here yet."""
