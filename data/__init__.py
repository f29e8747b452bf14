import lra  # noqa: F401  # before Lightning is imported; see lra/lean.py
