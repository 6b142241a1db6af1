"""From an interaction log to what models read: tables, windows, vocabularies, histories, samples, profiles."""
