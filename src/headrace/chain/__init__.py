"""Hugging Face models as chains of layers."""
