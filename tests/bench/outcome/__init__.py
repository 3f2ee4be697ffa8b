"""What a run has found: results, their statistics, the report, its pictures, and the targets."""
