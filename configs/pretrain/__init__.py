"""Groups of gje-pretrain alone."""
