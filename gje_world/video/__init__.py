"""Video models, from their options to their report, and the benchmark that asks for several futures."""
