"""LM-Infinite: stub for now."""
NAME = "lm_infinite"
def install(module, window, sinks): raise NotImplementedError
