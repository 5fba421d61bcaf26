"""Small specialized language models under four budgets."""

__version__ = "0.1.0"
