"""Memory: tables that own their entries and know no packets."""
