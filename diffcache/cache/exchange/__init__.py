"""Features in and out: between formats, to files of other tools, and from arrays made elsewhere."""
