"""Head Impact: which layers of a vision-language model to fine-tune, answered from its attention."""

__version__ = "0.1.0"
