"""One file a stage: the only rooms that import Ray. A stage reads files, writes files and knows no other stage."""
