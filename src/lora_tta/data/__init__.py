"""Any video to clips."""
