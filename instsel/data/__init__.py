"""From rows of user files to tokenised training examples."""
