"""Raw text of many forms as documents; what cannot be read is named, counted and left out."""
