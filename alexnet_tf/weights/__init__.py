"""Weight files of other frameworks: reads them, recognizes their network, and writes them."""
