"""What users need to test their own gated chains and agents, without a provider and without a gate."""
