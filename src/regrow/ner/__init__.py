"""Named entities: read annotated sentences, train a model to tag them, and score its answers."""
