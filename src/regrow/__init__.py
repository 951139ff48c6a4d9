"""Prune a language model in stages, and regrow what each cut costs."""
