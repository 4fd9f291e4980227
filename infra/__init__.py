"""What is started and deployed: the embedded broker, the ACL maker and the ClickHouse definitions."""
