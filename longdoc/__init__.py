"""Long documents: blocks, SMITH, and passages' scores as documents'."""
