"""Methods of the papers, a folder each."""
