"""What the pages show: numbers of the tables, as sentences, tables and drawings."""
