"""File names are bytes; what people see must be Unicode."""


def printable(text: str) -> str:
    """Show a file name that is no valid Unicode with question marks instead of an exception."""
    return text.encode("utf-8", "replace").decode()
