"""Transport: topics, engine adapters, identity, registry and settings; no policy rule lives here."""
