"""The pruning methods, one file each: a file here is a method of its name, which its `METHOD` is (see `method`)."""
