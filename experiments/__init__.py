"""What people run: the command line, training, evaluation and benchmarks. Nothing else imports from here."""
