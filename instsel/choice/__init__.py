"""From what the stages of a study left to a choice of rows with a reason for each; needs neither Ray nor a model."""
