"""Fits of real photos under several settings, side by side: what the dense landmarks and the colours bring."""
