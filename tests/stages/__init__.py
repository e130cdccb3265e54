"""The stages on whole uploads, without any home."""
