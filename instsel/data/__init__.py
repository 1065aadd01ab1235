"""From a row of somebody's file to a tokenised training example."""
