"""How the embedded model and its clips were made."""
