"""The language side: models of transformers that read vision tokens."""
