"""The bytes of a file on their way here: in ranges, noted in a journal, tried again."""
