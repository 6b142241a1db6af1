"""From an interaction log to what models read: tables, split, vocabularies, histories, samples,
as-of features.
"""
