"""Analysis, the impact index and its kernels, sparse methods, vectors; nothing is imported here."""
