## forward pass and attention mechanisms
