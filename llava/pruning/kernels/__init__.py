"""What several methods compute: cosines, the rounds of VisPruner, greedy picks, each in the fastest version."""
