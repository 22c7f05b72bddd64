"""The language in the middle: geometry, and one request and result for each task. No vendor's words."""
