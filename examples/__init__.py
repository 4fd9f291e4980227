"""The demo's story and the five-line programs."""
