"""What a config is going to take, told from its networks' shapes before any weight is here."""
