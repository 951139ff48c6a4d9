"""Find personal data in text: addresses, telephone numbers, and numbers of people and cards."""
