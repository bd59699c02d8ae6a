"""Tables: files, kinds of columns, and the encoder fitted to them."""
