"""The vocabulary: Avro schemas, event classes, envelope, ids, codec and errors."""
