"""One pruning method in each file; `llava.model.pruning` finds them."""
