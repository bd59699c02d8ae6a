"""Texts: files, tokenizers, encoders, translation pairs and corpora."""
