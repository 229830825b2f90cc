"""The same scenarios over every metering handler: what a model spent, and what was charged for it."""
