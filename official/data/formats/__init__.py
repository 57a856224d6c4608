"""Files of labelling tools: each reader gives image records, `records.py` makes a source of them."""
