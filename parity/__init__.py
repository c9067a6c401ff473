"""Model parity for LTX-2.3: run two implementations side by side, name the module where they part, and judge."""
