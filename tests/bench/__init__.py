"""Ratios, never promises: what things cost here and now, beside something that everybody knows."""
