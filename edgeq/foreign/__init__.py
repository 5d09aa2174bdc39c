"""What comes from strangers beside models: documents to be read, and text to be shown."""
