"""Contract suites and fakes; production never imports it."""
