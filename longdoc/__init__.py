"""Long documents: blocks of sentences, windows or structure. SMITH and aggregation are not in here yet."""
