"""Images: folders, downloads, decoding, and the known sets."""
