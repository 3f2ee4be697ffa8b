"""Signs payments, and decides beforehand whether one over Permit2 is possible. Nothing else signs payments."""
