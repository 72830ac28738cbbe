"""Texts to token ids: the tokenizer, its faster twin and the gate between them, chats, lengths."""
