"""What passes between processes; free of torch."""
