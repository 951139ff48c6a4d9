"""Which documents, paragraphs and sentences stand in the corpus already."""
