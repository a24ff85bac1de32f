"""The process that opens foreign data, models and templates: it can be killed at any time."""
