"""What several stages must agree on about a text: words, shingles, hashes, chats."""
