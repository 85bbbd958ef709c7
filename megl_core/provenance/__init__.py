"""Which inputs made a model: in-toto statements with a SLSA provenance predicate, and their signatures."""
