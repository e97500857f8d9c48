"""What runs a backbone: the table of engines, their verification, and this machine."""
