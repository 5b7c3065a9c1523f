"""Apply and undo mounts. Standard library only: it is loaded in the launcher."""
