"""Networks that a method is built of: encoders, experts, language models."""
