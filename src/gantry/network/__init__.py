"""Networks, sandboxes, addresses, published ports and names; knows no container records."""
