"""The language model: its configuration, its weights, one file a family."""
