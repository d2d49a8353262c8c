"""Re-rankers, one file each, cascades with budgets, and the fusion of runs."""
