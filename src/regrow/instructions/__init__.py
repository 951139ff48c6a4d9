"""From tasks and conversations in many formats to instructions that a model is tuned on."""
