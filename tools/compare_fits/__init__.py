"""Compare fits of real photos under several configs: the benefit of dense landmarks and of colours."""
