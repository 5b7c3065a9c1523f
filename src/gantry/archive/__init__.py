"""Layer tars, read and written under a dirfd."""
