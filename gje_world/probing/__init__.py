"""What `gje-probe` measures, a file for each of its subcommands."""
