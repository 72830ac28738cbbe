"""What of one set of texts stands in another, found without MinHash."""
