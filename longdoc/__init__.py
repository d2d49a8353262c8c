"""Long documents: blocks, and passages' scores as documents'. SMITH is not in here yet."""
