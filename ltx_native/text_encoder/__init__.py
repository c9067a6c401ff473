"""Prompt to text conditioning: tokenizer, Gemma 3, feature extractor and the two embeddings connectors."""
