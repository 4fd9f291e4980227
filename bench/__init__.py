"""Figures: what each part costs, measured as ratios in one run."""
