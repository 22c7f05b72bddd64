"""What tasks ask models among themselves: tasks that no door offers."""
